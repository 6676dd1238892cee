"""What can happen in a script, and the namespaces that it happens in."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from triocast.settings import DROP, LATEST, Namespace, Namespaces
from triocast.subscriptions import EVERYTHING, Filter

WINDOW_MS = 700
NAMESPACES = Namespaces(
    {
        "n": Namespace(compress=True),
        "l": Namespace(overflow=LATEST, compress=True),
        "d": Namespace(overflow=DROP),
        "w": Namespace(debounce_ms=WINDOW_MS),
        "p": Namespace(presence=True),
    }
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
    filter: Filter = EVERYTHING
    plan: Sequence[int | None] = ()
    user: str | None = None
    heartbeat_events: bool = False
    resumes: bool = False
    """Whether it comes back with the cursor of the one before it in this place."""
    reads: str | None = None
    """The channel of the documents, or members, that it reads before it listens behind them."""


@attrs.frozen
class ToPublish:
    channel: str
    of_client: int = 0
    """Whose connection it is for, where the channel is ``$conn``; who does not hear it, else."""
    excludes: bool = False
    type: str = "T"
    tags: Sequence[str] = ()
    size: int = 0
    key: str | None = None
    urgent: bool = False


@attrs.frozen
class Publish:
    """A publisher of its own publishes these, together, and may have an idempotency key."""

    events: Sequence[ToPublish]
    once: bool = False


ANYTHING, NOTHING, LATEST_VERSION, OLD_VERSION = "anything", "nothing", "latest", "old"


@attrs.frozen
class ToWrite:
    """``expects`` is what the writer wants to find: a version is the one that it has just read."""

    channel: str
    key: str
    expects: str = ANYTHING
    removes: bool = False
    size: int = 0
    urgent: bool = False


@attrs.frozen
class Write:
    """So many writers at once each write these documents, together."""

    documents: Sequence[ToWrite]
    writers: int = 1
    once: bool = False


@attrs.frozen
class Say:
    """A client publishes through its WebSocket."""

    client: int
    channel: str
    echo: bool


@attrs.frozen
class Ask:
    """A client asks through its WebSocket who is on a channel."""

    client: int
    channel: str


@attrs.frozen
class Subscribe:
    client: int
    names: Sequence[str]
    filter: Filter = EVERYTHING


@attrs.frozen
class Unsubscribe:
    client: int
    names: Sequence[str]


@attrs.frozen
class Disturb:
    client: int
    what: str


@attrs.frozen
class Disk:
    """From now on the store takes so many turns for what it does, and is full or not."""

    turns: int
    is_full: bool = False


@attrs.frozen
class Turns:
    count: int


@attrs.frozen
class Pass:
    seconds: float


@attrs.frozen
class Repeat:
    """A publisher sends again what it published under a key: one of the latest, the last is 0."""

    which: int = 0


@attrs.frozen
class Look:
    """A reader of its own reads the history of these names."""

    names: Sequence[str]


@attrs.frozen
class Cancel:
    """Some caller under way is cancelled: one of the latest, the last is 0."""

    which: int = 0


@attrs.frozen
class Kill:
    """The process is killed; a new one begins on what it leaves."""


PARTS = ("engine", "hub", "presence")
OUTLET = "outlet"


@attrs.frozen
class Fail:
    """A part of the node fails, and so the node ends; a new process begins.

    Where it is the `OUTLET`, the hub fails to take what the engine accepts next.
    """

    part: str


Step = (
    Connect | Publish | Write | Repeat | Look | Say | Ask | Subscribe | Unsubscribe | Disturb
    | Cancel | Disk | Turns | Pass | Kill | Fail
)  # fmt: skip
