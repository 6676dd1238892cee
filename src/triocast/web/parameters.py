"""The names that queries may have: one table, by route, for every way in.

A misspelt name would be passed over in silence, and a subscription to nothing looks like one on
which nothing happens. So a name that no one reads is refused, with what was meant. Those that begin
with ``_`` or ``utm_`` are other people's (jQuery's ``_``, campaigns) and pass. What is not in the
table takes any query: pages, assets, and the questions of load balancers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from triocast.errors import UnknownParameter
from triocast.spelling import unknown
from triocast.web.call import Call

FOREIGN: Final = ("_", "utm_")
"""How names begin that are none of ours."""

_CREDENTIAL: Final = {"token"}
_FILTER: Final = {"channel", "type", "tag"}
_STREAM: Final = {
    *_CREDENTIAL,
    *_FILTER,
    "since",
    "last",
    "last_event_id",
    "lastEventId",
    "cursor",
    "heartbeat",
}
_PAGE: Final = {"limit", "after"}
_WRITE: Final = {"channel", "key", "type", "tag", "urgent"}
_PEERJS: Final = {"version", "ts"}
"""What npm's client adds to each of its requests: its version, and against caches the time."""

QUERIES: Final[Mapping[str, frozenset[str]]] = {
    route: frozenset(names)
    for route, names in {
        "GET /realtime/events": {*_STREAM, "named"},
        "GET /realtime/ws": _STREAM,
        "GET /realtime/poll": {*_STREAM, "wait"},
        "GET /realtime/history": {*_CREDENTIAL, *_FILTER, *_PAGE, "before"},
        "DELETE /realtime/history": {*_CREDENTIAL, "channel", "user"},
        "GET /realtime/documents": {*_CREDENTIAL, *_PAGE, "channel", "key"},
        "PUT /realtime/documents": {*_CREDENTIAL, *_WRITE},
        "DELETE /realtime/documents": {*_CREDENTIAL, *_WRITE},
        "GET /realtime/presence": {*_CREDENTIAL, *_PAGE, "channel"},
        "GET /realtime/stats": _CREDENTIAL,
        "POST /realtime/broadcast": _CREDENTIAL,
        "POST /realtime/send": _CREDENTIAL,
        "GET /realtime/webrtc/signaling": _CREDENTIAL,
        "GET /realtime/webrtc/rooms": {*_CREDENTIAL, "room"},
        "POST /realtime/webrtc/rooms": _CREDENTIAL,
        # Behind the setting peerjs_path. Their key is their credential.
        "GET /peerjs": {*_PEERJS, "key", "id", "token"},
        "GET /<key>/id": _PEERJS,
        "GET /<key>/peers": _PEERJS,
    }.items()
}
"""Method and path -> the names that are read. A WebSocket is opened by a GET."""


def check_query(call: Call, route: str) -> None:
    """Raise UnknownParameter if the query of a call has a name that this route does not read."""
    known = QUERIES[route]
    for name in call.query:
        if name not in known and not name.startswith(FOREIGN):
            raise UnknownParameter(f"the query's {unknown(name, known)}")
