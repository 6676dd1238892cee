"""What happens, as hypothesis writes it: who comes, what is published, and who is disturbed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

import attrs
from hypothesis import strategies as st

from triocast.settings import DROP, LATEST, Namespace, Namespaces
from triocast.subscriptions import EVERYTHING, Filter, make_filter

from .network import ALL, BREAK

NAMESPACES = Namespaces(
    {
        "n": Namespace(compress=True),
        "l": Namespace(overflow=LATEST, compress=True),
        "d": Namespace(overflow=DROP),
    }
)
TYPES = ("S", "T")
TAGS = ("red", "blue")
ROOMS = (ALL, ALL, ALL, 0, 0, 1, 7, 50, 200, 1_000, 3_000)
T = TypeVar("T")


@attrs.frozen
class Theme:
    """What a script is about; ``floods`` are more than a client takes that stands still."""

    channels: Sequence[str]
    names: Sequence[str]
    floods: bool = False


FAN_OUT = Theme(
    ("a", "b", "n:a", "n:b", "$all", "$user:u", "$conn"), ("a", "b", "n:a", "n:b", "n:*", "*")
)
OVERFLOW = Theme(
    ("l:a", "d:a", "l:b", "d:b", "a", "$all"),
    ("*", "l:*", "d:*", "l:a", "d:a", "a"),
    floods=True,
)


@attrs.frozen
class Way:
    """How a client comes in."""

    transport: str
    direct: bool = False
    portable: bool = False
    chunked: bool = False
    deflate: bool = False


WAYS = (
    Way("sse", direct=True, chunked=True),
    Way("sse", direct=True),
    Way("sse", chunked=True),
    Way("sse", portable=True),
    Way("websocket", direct=True),
    Way("websocket", direct=True, deflate=True),
    Way("websocket"),
    Way("websocket", deflate=True),
    Way("websocket", portable=True),
)


@attrs.frozen
class Connect:
    client: int
    way: Way
    names: Sequence[str]
    filter: Filter
    plan: Sequence[int | None]
    user: str | None
    heartbeat_events: bool
    resumes: bool
    """Whether it comes back with the cursor of the one before it in this place."""


@attrs.frozen
class ToPublish:
    channel: str
    of_client: int
    """Whose connection it is for, where the channel is ``$conn``; who does not hear it, else."""
    excludes: bool
    type: str
    tags: Sequence[str]
    size: int
    key: str | None


@attrs.frozen
class Publish:
    """A publisher of its own publishes these, together."""

    events: Sequence[ToPublish]


@attrs.frozen
class Say:
    """A client publishes through its WebSocket."""

    client: int
    channel: str
    echo: bool


@attrs.frozen
class Subscribe:
    client: int
    names: Sequence[str]
    filter: Filter


@attrs.frozen
class Unsubscribe:
    client: int
    names: Sequence[str]


DISTURBANCES = [*["go", "stall", "beat"] * 3, "send away", "leave", "break"]


@attrs.frozen
class Disturb:
    client: int
    what: str


@attrs.frozen
class Turns:
    count: int


@attrs.frozen
class Pass:
    seconds: float


Step = Connect | Publish | Say | Subscribe | Unsubscribe | Disturb | Turns | Pass


class Dice:
    """Choices made by a number: the smaller it is, the more of them fall on what stands first."""

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
        self._floods = theme.floods
        self._names = dice.some(theme.names, most=3)
        self._channels = dice.some(theme.channels, most=3)
        self._ways = dice.some(WAYS, most=3)
        rare = make_filter([dice.one(TYPES)], dice.one([(), TAGS[:1], TAGS[1:]]))
        self._filters = [EVERYTHING, *dice.one([[], [EVERYTHING, EVERYTHING, rare]])]
        self.clients = range(dice.one([3, 4, 5, 6]))

    def connect(self, dice: Dice, client: int) -> Connect:
        way, names = dice.one(self._ways), dice.some(self._names, most=3)
        plan = [dice.one(ROOMS) for _ in range(dice.one(range(16)))]
        ends = dice.one([[], [], [], [], [], [BREAK]])
        user, heartbeat_events = dice.one([None, "u"]), dice.one([False, True])
        filter = dice.one(self._filters)
        resumes = dice.one([True, True, False])
        plan += ends
        return Connect(client, way, names, filter, plan, user, heartbeat_events, resumes)

    def steps(self, dice: Dice) -> list[Step]:
        """One step, or a few that fall into one batch of the hub."""
        if self._floods and dice.one([False, True]):
            return self._flood(dice)
        if dice.one([False, False, True]):
            change = dice.one([self._unsubscribe, self._disturb, self._subscribe])
            return [self._publish(dice), self._turns(dice), change(dice), self._subscribe(dice)]
        make = dice.one(
            [
                self._turns,
                self._publish,
                self._subscribe,
                self._unsubscribe,
                self._disturb,
                self._say,
                self._pass,
                self._connect,
                self._publish,
                self._disturb,
            ]
        )
        return [make(dice)]

    def _flood(self, dice: Dice) -> list[Step]:
        """More than a client takes, and what becomes of it then."""
        client = self._client(dice)
        steps: list[Step] = [Disturb(client, "stall")]
        for _ in range(dice.one([1, 2, 3, 4])):
            steps += [Publish([self._event(dice) for _ in range(4)]), Turns(9)]
        ends = [[Disturb(client, "go")], [], [Disturb(client, "break")], [self._unsubscribe(dice)]]
        return steps + dice.one(ends)

    def _client(self, dice: Dice) -> int:
        return dice.one(self.clients)

    def _connect(self, dice: Dice) -> Connect:
        return self.connect(dice, self._client(dice))

    def _publish(self, dice: Dice) -> Publish:
        return Publish([self._event(dice) for _ in range(dice.one([1, 1, 2, 4]))])

    def _event(self, dice: Dice) -> ToPublish:
        return ToPublish(
            dice.one(self._channels),
            self._client(dice),
            dice.one([False, False, False, True]),
            dice.one(TYPES),
            dice.one([(), (), TAGS[:1], TAGS]),
            dice.one([0, 0, 20, 300, 1_000, 3_500]),
            dice.one([None, "k", "k", "l"]),
        )

    def _say(self, dice: Dice) -> Say:
        return Say(self._client(dice), dice.one(["a", "n:a"]), dice.one([True, False]))

    def _subscribe(self, dice: Dice) -> Subscribe:
        names = dice.some(self._names, most=2)
        return Subscribe(self._client(dice), names, dice.one(self._filters))

    def _unsubscribe(self, dice: Dice) -> Unsubscribe:
        return Unsubscribe(self._client(dice), dice.some(self._names, most=2))

    def _disturb(self, dice: Dice) -> Disturb:
        return Disturb(self._client(dice), dice.one(DISTURBANCES))

    def _turns(self, dice: Dice) -> Turns:
        return Turns(dice.one([1, 2, 3, 4, 5, 6]))

    def _pass(self, dice: Dice) -> Pass:
        return Pass(dice.one([0.1, 1.0, 10.0]))


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
    numbers = st.lists(st.binary(min_size=20, max_size=20), min_size=30, max_size=60)
    return numbers.map(lambda numbers: write_script(numbers, theme))
