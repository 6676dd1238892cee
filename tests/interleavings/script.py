"""Scripts as hypothesis writes them: who comes, what is published, and who is disturbed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

import attrs
from hypothesis import strategies as st

from triocast.events import presence_target
from triocast.subscriptions import EVERYTHING, make_filter

from .network import ALL, BREAK
from .steps import (
    ANYTHING,
    LATEST_VERSION,
    NOTHING,
    OLD_VERSION,
    OUTLET,
    PARTS,
    WAYS,
    Ask,
    Cancel,
    Connect,
    Disk,
    Disturb,
    Fail,
    Kill,
    Look,
    Pass,
    Publish,
    Repeat,
    Say,
    Step,
    Subscribe,
    ToPublish,
    ToWrite,
    Turns,
    Unsubscribe,
    Write,
)

TYPES = ("S", "T")
TAGS = ("red", "blue")
KEYS = (None, "k", "k", "l")
ROOMS = (ALL, ALL, ALL, 0, 0, 1, 7, 50, 200, 1_000, 3_000)
DISTURBANCES = (*["go", "stall", "beat"] * 3, "send away", "leave", "break")
T = TypeVar("T")

COMMON = (
    "turns", "publish", "subscribe", "unsubscribe", "disturb", "say", "pass", "connect", "publish",
    "disturb", "come_back",
)  # fmt: skip
WITH_CLASHES = (*COMMON, *COMMON, *["clash"] * 11)


@attrs.frozen
class Theme:
    """What a script is about: ``kinds`` of steps as often as they stand there, and their words."""

    channels: Sequence[str]
    names: Sequence[str]
    kinds: Sequence[str]
    lists: Sequence[str] = ()
    """What newcomers may read before they listen: channels of documents or of presence."""
    users: Sequence[str | None] = (None, "u")
    pauses: Sequence[float] = (0.1, 1.0, 10.0)
    disk_may_be_full: bool = True
    disturbances: Sequence[str] = DISTURBANCES
    under_way: Sequence[str] = ("publish", "publish", "look", "come_back")
    """What is mostly being done when a caller is cancelled, or a process ends."""
    bytes_of_step: int = 20


FAN_OUT = Theme(
    ("a", "b", "n:a", "n:b", "$all", "$user:u", "$conn"),
    ("a", "b", "n:a", "n:b", "n:*", "*"),
    (*WITH_CLASHES, "disk"),
)
OVERFLOW = Theme(
    ("l:a", "d:a", "l:b", "d:b", "a", "$all"),
    ("*", "l:*", "d:*", "l:a", "d:a", "a"),
    (*WITH_CLASHES, *["flood"] * 33),
)
DOCUMENTS = Theme(
    ("a", "n:a", "l:a"),
    ("a", "n:a", "n:*", "l:a", "*"),
    (*COMMON, *["write"] * 10, "clash", "connect", "disk", "disk"),
    lists=("a", "n:a", "l:a"),
    under_way=("write", "write", "publish", "connect"),
)
PRESENCE = Theme(
    ("p:a", "$all"),
    ("p:a", "$presence:p:a", "p:b", "$presence:p:b", "p:*"),
    (*COMMON, *["come_back", "subscribe", "unsubscribe", "disturb", "ask", "pass"] * 3, "disk"),
    lists=("$presence:p:a", "$presence:p:b"),
    users=("u", "v", None),
    disk_may_be_full=False,  # what is then told late has no time that could be compared
    disturbances=("leave", "send away", "break", "stall", "go"),
    under_way=("come_back", "connect", "subscribe", "unsubscribe", "publish"),
)
DEBOUNCE = Theme(
    ("w:a", "w:b"),
    ("w:a", "w:*", "*"),
    ("turns", "publish", "pass", "publish", "write", "pass", *COMMON, "clash", "disk", "publish"),
    lists=("w:a",),
    pauses=(0.1, 0.35, 0.7, 2.0),
    under_way=("publish", "publish", "write", "pass"),
)

INTERRUPTIONS = ("cancel", "kill", "cancel", "fail", "repeat", "cancel", "kill", "look")


def interrupted(theme: Theme) -> Theme:
    """Return a theme in which callers are cancelled too, and processes killed, or fail."""
    kinds = (*theme.kinds, *INTERRUPTIONS * max(1, len(theme.kinds) // 30))
    disturbances = (*theme.disturbances, "cancel")
    return attrs.evolve(theme, kinds=kinds, disturbances=disturbances, bytes_of_step=40)


class Dice:
    """Throws made by a number: the smaller it is, the more of them fall on what stands first."""

    def __init__(self, number: bytes) -> None:
        self._left = int.from_bytes(number)

    def one(self, options: Sequence[T]) -> T:
        self._left, index = divmod(self._left, len(options))
        return options[index]

    def some(self, options: Sequence[T], *, most: int) -> list[T]:
        """At least one."""
        count = self.one(range(1, most + 1))
        return list(dict.fromkeys(self.one(options) for _ in range(count)))


class Author:
    """Writes a script in which much of what happens has to do with the rest of it."""

    def __init__(self, dice: Dice, theme: Theme) -> None:
        self._theme = theme
        # Clients that are all alike are written to in a way of its own.
        kinds = dice.one([3, 1])
        self._names = dice.some(theme.names, most=kinds)
        self._channels = dice.some(theme.channels, most=3)
        self._ways = dice.some(WAYS, most=kinds)
        rare = make_filter([dice.one(TYPES)], dice.one([(), TAGS[:1], TAGS[1:]]))
        self._filters = [EVERYTHING, *dice.one([[], [EVERYTHING, EVERYTHING, rare]])]
        self.clients = range(dice.one([3, 4, 5, 6]))
        self._disk_may_be_full = theme.disk_may_be_full and dice.one([False, True])
        self._may_repeat = "repeat" in theme.kinds
        self._makers = [getattr(self, f"_{kind}") for kind in theme.kinds]

    def steps(self, dice: Dice) -> list[Step]:
        """One step, or a few that fall into one batch of the hub."""
        return dice.one(self._makers)(dice)

    def connect(self, dice: Dice, client: int) -> Connect:
        way, names = dice.one(self._ways), dice.some(self._names, most=3)
        plan = [dice.one(ROOMS) for _ in range(dice.one(range(16)))]
        ends = dice.one([[], [], [], [], [], [BREAK]])
        user, heartbeat_events = dice.one(self._theme.users), dice.one([False, True])
        filter = dice.one(self._filters)
        resumes = dice.one([True, True, False])
        reads = dice.one([None, *self._theme.lists])
        if reads is not None:
            names = list(dict.fromkeys([reads, *names]))
        plan += ends
        return Connect(client, way, names, filter, plan, user, heartbeat_events, resumes, reads)

    def _connect(self, dice: Dice) -> list[Step]:
        return [self.connect(dice, self._client(dice))]

    def _come_back(self, dice: Dice) -> list[Step]:
        """A client that ends and comes back, while something happens or not."""
        client = self._client(dice)
        end = Disturb(client, dice.one(["send away", "leave"]))
        meanwhile = dice.one([self._publish, self._turns, self._pass, self._nothing])
        again = attrs.evolve(self.connect(dice, client), resumes=True)
        return [end, *meanwhile(dice), again]

    def _nothing(self, _: Dice) -> list[Step]:
        return []

    def _clash(self, dice: Dice) -> list[Step]:
        """A subscription that changes while events are on their way."""
        change = dice.one([self._unsubscribe, self._disturb, self._subscribe])
        return [
            *self._publish(dice), *self._turns(dice), *change(dice), *self._subscribe(dice),
        ]  # fmt: skip

    def _flood(self, dice: Dice) -> list[Step]:
        """More than a client takes, and what becomes of it then."""
        client = self._client(dice)
        steps: list[Step] = [Disturb(client, "stall")]
        for _ in range(dice.one([1, 2, 3, 4])):
            steps += [Publish([self._event(dice) for _ in range(4)]), Turns(9)]
        ends = [[Disturb(client, "go")], [], [Disturb(client, "break")], self._unsubscribe(dice)]
        return steps + dice.one(ends)

    def _client(self, dice: Dice) -> int:
        return dice.one(self.clients)

    def _publish(self, dice: Dice) -> list[Step]:
        events = [self._event(dice) for _ in range(dice.one([1, 1, 2, 4]))]
        return [Publish(events, self._may_repeat and dice.one([True, False]))]

    def _event(self, dice: Dice) -> ToPublish:
        return ToPublish(
            dice.one(self._channels),
            self._client(dice),
            dice.one([False, False, False, True]),
            dice.one(TYPES),
            dice.one([(), (), TAGS[:1], TAGS]),
            dice.one([0, 0, 20, 300, 1_000, 3_500]),
            dice.one(KEYS),
            dice.one([False, False, False, True]),
        )

    def _write(self, dice: Dice) -> list[Step]:
        documents = [
            ToWrite(
                dice.one(self._theme.lists),
                dice.one(["k", "l"]),
                dice.one([LATEST_VERSION, NOTHING, ANYTHING, LATEST_VERSION, OLD_VERSION]),
                dice.one([False, False, True]),
                dice.one([0, 0, 20, 300]),
                dice.one([False, False, False, True]),
            )
            for _ in range(dice.one([1, 1, 1, 2, 3]))
        ]
        once = self._may_repeat and dice.one([True, False])
        return [Write(documents, dice.one([1, 1, 2, 3]), once)]

    def _say(self, dice: Dice) -> list[Step]:
        return [Say(self._client(dice), dice.one(["a", "n:a"]), dice.one([True, False]))]

    def _ask(self, dice: Dice) -> list[Step]:
        channel = presence_target(dice.one(self._theme.lists))
        assert channel is not None
        return [Ask(self._client(dice), channel)]

    def _subscribe(self, dice: Dice) -> list[Step]:
        names = dice.some(self._names, most=2)
        return [Subscribe(self._client(dice), names, dice.one(self._filters))]

    def _unsubscribe(self, dice: Dice) -> list[Step]:
        return [Unsubscribe(self._client(dice), dice.some(self._names, most=2))]

    def _disturb(self, dice: Dice) -> list[Step]:
        return [Disturb(self._client(dice), dice.one(self._theme.disturbances))]

    def _disk(self, dice: Dice) -> list[Step]:
        is_full = self._disk_may_be_full and dice.one([False, False, True])
        return [Disk(dice.one([0, 1, 2, 5]), is_full)]

    def _under_way(self, dice: Dice) -> list[Step]:
        steps: list[Step] = []
        for _ in range(dice.one([1, 2])):
            steps += getattr(self, f"_{dice.one(self._theme.under_way)}")(dice)
        return [*steps, Turns(dice.one(range(10)))]

    def _repeat(self, dice: Dice) -> list[Step]:
        return [Repeat(dice.one([0, 0, 1, 2]))]

    def _look(self, dice: Dice) -> list[Step]:
        return [Look(self._names)]

    def _cancel(self, dice: Dice) -> list[Step]:
        interrupted = dice.one([[], [Disturb(self._client(dice), "cancel")]])
        return [*self._under_way(dice), Cancel(dice.one([0, 1])), *interrupted]

    def _kill(self, dice: Dice) -> list[Step]:
        return [*self._under_way(dice), Kill(), *self._all_come_back(dice)]

    def _fail(self, dice: Dice) -> list[Step]:
        return [
            *self._under_way(dice),
            Fail(dice.one([*PARTS, OUTLET])),
            *self._all_come_back(dice),
        ]

    def _all_come_back(self, dice: Dice) -> list[Step]:
        """Some later than others, some not."""
        steps: list[Step] = []
        for client in dice.one([self.clients, self.clients[1:], self.clients[:1], []]):
            again = attrs.evolve(self.connect(dice, client), resumes=True)
            steps += [*dice.one([[], [], self._publish(dice), self._turns(dice)]), again]
        return steps

    def _turns(self, dice: Dice) -> list[Step]:
        return [Turns(dice.one([1, 2, 3, 4, 5, 6]))]

    def _pass(self, dice: Dice) -> list[Step]:
        return [Pass(dice.one(self._theme.pauses))]


def write_script(numbers: Sequence[bytes], theme: Theme) -> list[Step]:
    first, *others = numbers
    author = Author(Dice(first), theme)
    script: list[Step] = []
    for number, client in itertools.zip_longest(others, author.clients):
        dice = Dice(number or b"")
        script += author.steps(dice) if client is None else [author.connect(dice, client)]
    return script


def scripts(theme: Theme) -> st.SearchStrategy[list[Step]]:
    # Each number is a step: so hypothesis has few draws to make, and whole steps to leave out.
    size = theme.bytes_of_step
    numbers = st.lists(st.binary(min_size=size, max_size=size), min_size=30, max_size=60)
    return numbers.map(lambda numbers: write_script(numbers, theme))
