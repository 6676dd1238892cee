"""Scripts that once came out wrong, written out.

In most of them two things have to happen in the same few turns of the run loop. Those are made for
a number of turns, and played for several.
"""

from __future__ import annotations

from .steps import (
    LATEST_VERSION,
    NOTHING,
    Cancel,
    Connect,
    Disk,
    Disturb,
    Kill,
    Look,
    Publish,
    Repeat,
    Say,
    Step,
    ToPublish,
    ToWrite,
    Turns,
    Unsubscribe,
    Way,
    Write,
)

SSE = Way("sse", direct=True)
WEBSOCKET = Way("websocket")
ASGI_WEBSOCKET = Way("websocket", portable=True)


def unsubscribes_within_a_batch(turns: int) -> list[Step]:
    """A slow client gets an event that replaces others, and unsubscribes.

    The hub is still writing that event to another client.
    """

    def state(size: int) -> ToPublish:
        return ToPublish("l:a", key="k", size=size)

    return [
        Connect(0, ASGI_WEBSOCKET, ["l:*"]),
        Connect(1, ASGI_WEBSOCKET, ["l:*"], plan=[0]),
        Connect(2, ASGI_WEBSOCKET, ["l:*"]),
        Publish([state(3_500), state(1_000)]),
        Turns(9),
        Publish([state(0), state(1_000), ToPublish("l:a")]),
        Turns(9),
        Publish([state(0), state(3_500), state(0), state(3_500)]),
        Turns(9),
        Publish([state(300)]),
        Turns(turns),
        Unsubscribe(1, ["l:*"]),
    ]


def breaks_while_its_event_is_to_be_kept(turns: int) -> list[Step]:
    """A client is lost in the moment in which the store takes its event."""
    return [
        Connect(0, WEBSOCKET, ["a"]),
        Turns(9),
        Publish([ToPublish("a")]),
        Turns(turns),
        Say(0, "a", echo=True),
        Disturb(0, "break"),
    ]


def is_sent_away_while_its_backlog_is_read(turns: int) -> list[Step]:
    return [
        Connect(0, SSE, ["a"]),
        Turns(9),
        Disturb(0, "leave"),
        Publish([ToPublish("a")]),
        Turns(9),
        Connect(0, SSE, ["a"], resumes=True),
        Turns(turns),
        Disturb(0, "send away"),
    ]


def much_comes_before_its_backlog_is_read(turns: int) -> list[Step]:
    """More than is kept of a channel; but the client had got all that was there before."""
    return [
        Publish([ToPublish("a")]),
        Connect(0, SSE, ["a"]),
        Turns(9),
        Disturb(0, "leave"),
        Connect(0, SSE, ["a"], resumes=True),
        Turns(turns),
        *[Publish([ToPublish("a")] * 4)] * 4,
    ]


def an_urgent_event_has_a_documents_key() -> list[Step]:
    """The document's second version is held back when that event comes."""
    return [
        Connect(0, SSE, ["w:a"], reads="w:a"),
        Turns(9),
        Write([ToWrite("w:a", "k")], writers=2),
        Turns(9),
        Publish([ToPublish("w:a", key="k", urgent=True)]),
    ]


def rivals_find_the_disk_full() -> list[Step]:
    rivals = Write([ToWrite("a", "k", expects=NOTHING)], writers=3)
    return [Disk(1, is_full=True), rivals, Turns(9)]


def callers_are_cancelled_as_their_work_is_handed_over(turns: int) -> list[Step]:
    """Each is cancelled in the same few turns in which a worker takes its job, or gives it back."""
    write = Write([ToWrite("a", "k", expects=LATEST_VERSION)], once=True)
    return [
        Connect(0, SSE, ["a"]),
        Turns(9),
        Publish([ToPublish("a")] * 2, once=True),
        write,
        Look(["a"]),
        Turns(turns),
        *map(Cancel, range(3)),
        Repeat(),
        Repeat(1),
        Turns(turns),
        Cancel(),
        Disturb(0, "cancel"),
    ]


def is_killed_while_something_is_written(turns: int) -> list[Step]:
    """Before, in, or right behind the commit; somebody comes back with the cursor of before."""
    return [
        Connect(0, WEBSOCKET, ["a", "w:a"]),
        Turns(9),
        Publish([ToPublish("w:a", key="k")] * 2, once=True),
        Write([ToWrite("a", "k", expects=NOTHING)], once=True, writers=2),
        Turns(turns),
        Kill(),
        Connect(0, WEBSOCKET, ["a", "w:a"], resumes=True),
        Repeat(),
        Turns(turns),
        Kill(),
        Connect(0, WEBSOCKET, ["a", "w:a"], resumes=True),
    ]
