"""All mailboxes together have a bound, and whoever takes most of it gives way."""

from hypothesis import given
from hypothesis import strategies as st

from triocast.signaling.budget import ENTRY_BYTES, Budget
from triocast.signaling.mailbox import Mailbox

from .table import Table

MOST = 20_000


def signal(table, sender, to, session, size, **fields):
    """Send something of about this size; return what its sender is told."""
    sdp = {"type": "offer", "sdp": "v=0" + "x" * size}
    message = {"type": "offer", "to": to, "session": session, "description": sdp}
    return table.say(sender, **message, **fields)


class Crowd:
    """A table with room for the queues of about four greedy peers, and a modest pair at it."""

    def __init__(self):
        self.table = Table(kept_bytes=MOST, queue_bytes=4_500)
        self.session = self.pair("modest")
        self.numbers = 0

    def pair(self, name):
        """Seat <name>-elder and <name>-newcomer in a room of their own."""
        self.table.join(f"{name}-elder", room=name)
        joined = self.table.join(f"{name}-newcomer", room=name)
        self.table.take(f"{name}-elder")
        self.table.say(f"{name}-elder", type="pong", seq=1)
        return joined["peers"][0]["session"]

    def greedy_pair(self, *, suspended):
        self.numbers += 1
        name = f"greedy{self.numbers}"
        session = self.pair(name)
        if suspended:
            self.table.lose(f"{name}-elder")
        told = []
        for _ in range(2):
            told += signal(self.table, f"{name}-newcomer", f"{name}-elder", session, 1_700)
        assert self.table.rooms.kept_bytes <= MOST
        return [item["code"] for item in told if item["type"] == "error"]


def test_who_wants_most_cannot_take_it_from_a_suspended_peer_with_little():
    crowd = Crowd()
    table = crowd.table
    table.lose("modest-elder")
    assert signal(table, "modest-newcomer", "modest-elder", crowd.session, 500) == []
    refused = [crowd.greedy_pair(suspended=True) for _ in range(12)]
    assert ["queue-full"] in refused
    assert table.rooms.kept_bytes > MOST - 2_000 - ENTRY_BYTES
    # And there is still room for more.
    candidate = table.signal("modest-newcomer", "candidate", "modest-elder", crowd.session)
    assert candidate == []
    missed = table.resume("modest-elder2", "modest-elder", 1, room="modest")
    assert [item["type"] for item in missed] == ["joined", "offer", "candidate"]


def test_who_reads_and_keeps_quiet_about_it_makes_no_gaps_for_others():
    crowd = Crowd()
    table = crowd.table
    signal(table, "modest-newcomer", "modest-elder", crowd.session, 500)
    for _ in range(12):
        assert crowd.greedy_pair(suspended=False) == []
    table.lose("modest-elder")
    joined, offer = table.resume("modest-elder2", "modest-elder", 1, room="modest")
    assert (joined["resume"]["gap"], offer["type"]) == (False, "offer")
    # Of the greedy only what they have is gone.
    for number in range(1, 13):
        name = f"greedy{number}"
        table.lose(f"{name}-elder")
        [back] = table.resume(f"{name}-elder2", f"{name}-elder", 3, room=name)
        assert back["resume"]["gap"] is False


def test_the_greedy_lose_to_the_modest_and_their_senders_are_told():
    crowd = Crowd()
    table = crowd.table
    while not any(crowd.greedy_pair(suspended=True) for _ in range(5)):
        pass
    names = [f"greedy{number}-newcomer" for number in range(1, crowd.numbers + 1)]
    for name in ["modest-newcomer", *names]:
        table.take(name)
    table.lose("modest-elder")
    for _ in range(2):
        assert signal(table, "modest-newcomer", "modest-elder", crowd.session, 500) == []
    told = [item for name in names for item in table.take(name)]
    codes = {item.get("code") for item in told}
    assert codes == {None, "queue-full"}
    assert {item.get("state") for item in told} == {None, "suspended"}
    assert table.rooms.kept_bytes <= MOST
    missed = table.resume("modest-elder2", "modest-elder", 1, room="modest")
    assert [item["type"] for item in missed] == ["joined", "offer", "offer"]


def test_what_is_kept_for_a_peer_goes_with_it():
    table = Table()
    session = table.pair()
    table.say("alice", type="pong", seq=1)
    assert table.rooms.kept_bytes == 0
    table.signal("bob", "candidate", "alice", session)
    assert table.rooms.kept_bytes > ENTRY_BYTES
    table.say("alice", type="leave")
    table.take("bob")
    table.say("bob", type="pong", seq=1)
    assert table.rooms.kept_bytes == 0
    table.join("carol")
    table.carry_out(table.rooms.close_room("r", table.now))
    assert table.rooms.is_empty


def test_nobody_loses_to_one_for_whom_more_is_kept():
    budget = Budget(10_000)
    boxes = [Mailbox(budget, most=50, most_bytes=8_000, seconds=9) for _ in range(3)]
    for box, size in zip(boxes, (100, 700, 5_000), strict=True):
        box.keep(b"x" * size, now=0)
    assert budget.heaviest() is None
    boxes[0].keep(b"x" * 4_000, now=0)
    assert budget.heaviest() in (boxes[0], boxes[2])
    assert not budget.takes(boxes[2], 1)
    assert budget.takes(boxes[1], 1)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["keep", "queue", "ack", "after", "abandon", "reset", "drop"]),
        st.integers(0, 2_000),
    ),
    max_size=60,
)


@given(STEPS)
def test_the_account_is_true(steps):
    budget = Budget(4_000)
    boxes = [Mailbox(budget, most=6, most_bytes=3_000, seconds=9) for _ in range(4)]
    may_keep = [True] * 4
    for index, step, number in steps:
        box = boxes[index]
        match step:
            case "keep" if may_keep[index]:
                box.keep(b"x" * number, now=0)
            case "queue":
                may_keep[index] = False
                box.queue(b"x" * number, now=0)
            case "ack":
                box.acknowledge(number % 10)
            case "after":
                may_keep[index] |= box.after(number % 10, now=0) is not None
            case "abandon":
                may_keep[index] = False
                box.abandon()
            case "reset":
                may_keep[index] = True
                box.reset()
            case "drop":
                box.drop_sent()
        weights = [box.weight for box in boxes]
        assert budget.used == sum(weights)
        heaviest = budget.heaviest()
        assert (heaviest is not None) == (budget.used > 4_000)
        assert heaviest is None or 2 * heaviest.weight > max(weights)
