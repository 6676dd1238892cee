"""Everything that can go wrong and be told to a client.

Each error has a ``code`` for machines, a ``message`` for people, an HTTP ``status``, and says
whether it is ``temporary`` (the same request may succeed later).

    TriocastError
      BadRequest                400
        InvalidJSON  InvalidEvent  InvalidChannel  InvalidCursor  UnknownCommand
        TooManyChannels  UnknownParameter  ReservedType
      Unauthorized              401
      Forbidden                 403
        OriginRefused
      NotFound                  404
        Disabled
      Timeout                   408
      VersionConflict           412
      TooLarge                  413
      WrongContentType          415
        WrongContentEncoding
      IdempotencyConflict       422
      UpgradeRequired           426
      Flood                     429, temporary
      HeadTooLarge              431
      NotSupported              501
        VersionNotSupported     505
      InternalError             500
      Unavailable               503, temporary
        TooManyConnections  Overloaded  ShuttingDown  OutcomeUnknown
        NodeNotStarted  NodeFailed  NodeClosed  NeedsTrio
      TooManyDocuments          507

Close codes of WebSockets are listed once, in `CloseCode`: 4000-4499 and 1001, 1006, 1011, 1012,
1013 mean "come back", 4500-4999 and 1002, 1003, 1007, 1008, 1009 mean "stop".
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import ClassVar


class TriocastError(Exception):
    """The root of all errors that are told to a client."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    temporary: ClassVar[bool] = False
    retry_after: ClassVar[int] = 5
    """Seconds until a retry makes sense, where the error is temporary."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def as_dict(self) -> dict[str, object]:
        return {"code": self.code, "message": self.message, "temporary": self.temporary}


class BadRequest(TriocastError):
    code = "bad_request"
    status = 400


class InvalidJSON(BadRequest):
    code = "invalid_json"


class InvalidEvent(BadRequest):
    code = "invalid_event"


class ReservedType(BadRequest):
    """An event under the type of one of the server's own messages."""

    code = "reserved_type"


class InvalidChannel(BadRequest):
    code = "invalid_channel"


class InvalidCursor(BadRequest):
    code = "invalid_cursor"


class UnknownCommand(BadRequest):
    code = "unknown_command"


class TooManyChannels(BadRequest):
    code = "too_many_channels"


class UnknownParameter(BadRequest):
    """The query has a name that this address does not read."""

    code = "unknown_parameter"


class Unauthorized(TriocastError):
    code = "unauthorized"
    status = 401


class Forbidden(TriocastError):
    code = "forbidden"
    status = 403


class OriginRefused(Forbidden):
    code = "origin_refused"


class NotFound(TriocastError):
    code = "not_found"
    status = 404


class Disabled(NotFound):
    code = "disabled"


class Timeout(TriocastError):
    code = "timeout"
    status = 408
    temporary = True


class VersionConflict(TriocastError):
    """A precondition of the request is not true (RFC 9110, 15.5.13)."""

    code = "version_conflict"
    status = 412


class TooLarge(TriocastError):
    code = "too_large"
    status = 413


class WrongContentType(TriocastError):
    code = "wrong_content_type"
    status = 415


class WrongContentEncoding(WrongContentType):
    """A body that is compressed, or otherwise encoded (RFC 9110, 8.4)."""

    code = "wrong_content_encoding"


class IdempotencyConflict(TriocastError):
    code = "idempotency_conflict"
    status = 422


class Flood(TriocastError):
    """A client sent too much that says nothing (see `triocast.floods`)."""

    code = "flood"
    status = 429
    temporary = True


class UpgradeRequired(TriocastError):
    """An address that speaks WebSocket, or a version of it that we do not (RFC 6455, 4.4)."""

    code = "upgrade_required"
    status = 426


class HeadTooLarge(TriocastError):
    code = "head_too_large"
    status = 431


class NotSupported(TriocastError):
    """A part of HTTP that this server does without."""

    code = "not_supported"
    status = 501


class VersionNotSupported(NotSupported):
    code = "http_version_not_supported"
    status = 505


class InternalError(TriocastError):
    """A fault of ours. It is logged with its traceback; the client is told nothing about it."""

    code = "internal"

    def __init__(self, message: str = "an error of ours; it has been logged") -> None:
        super().__init__(message)


class Unavailable(TriocastError):
    code = "unavailable"
    status = 503
    temporary = True


class TooManyConnections(Unavailable):
    code = "too_many_connections"


class Overloaded(Unavailable):
    code = "overloaded"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class NodeNotStarted(Unavailable):
    """The node does not run yet; in most cases nobody sends the application lifespan events."""

    code = "node_not_started"


class NodeFailed(Unavailable):
    """A part of the node failed. It does not run again: the process has to be restarted."""

    code = "node_failed"


class NodeClosed(Unavailable):
    """The node has ended, as its application did."""

    code = "node_closed"


class NeedsTrio(Unavailable):
    """The application runs on an event loop other than Trio's."""

    code = "needs_trio"


class OutcomeUnknown(Unavailable):
    """What was asked for may or may not have been done, or may still be done later."""

    code = "outcome_unknown"

    @classmethod
    def because(cls, why: str) -> OutcomeUnknown:
        """Return the error with the advice what to do."""
        return cls(
            f"{why}; it may still be done: send it again under the same idempotency key, which"
            " answers with the first outcome if it was done"
        )


class TooManyDocuments(TriocastError):
    code = "too_many_documents"
    status = 507


class CloseCode(IntEnum):
    """The WebSocket close codes this server sends."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    INVALID_TEXT = 1007
    POLICY = 1008
    MESSAGE_TOO_BIG = 1009
    SERVER_ERROR = 1011
    SERVICE_RESTART = 1012
    SLOW_CONSUMER = 4001
    PEER_LOST = 4002
    UNAUTHORIZED = 4500
    """The grant has ended: the same token will not do again."""
    REPLACED = 4501
    """Signaling: the peer came back on a newer connection."""
    KICKED = 4502
    """Signaling: a moderator removed the peer."""
    ROOM_CLOSED = 4503
    """Signaling: the room was closed."""

    @property
    def reconnect(self) -> bool:
        """Whether a client should come back after this code."""
        return should_reconnect(self.value)


def should_reconnect(code: int) -> bool:
    """Say whether a client that saw this close code should connect again."""
    return 4000 <= code <= 4499 or code in (1001, 1006, 1011, 1012, 1013)


class EndReason(Enum):
    """Why a connection ended; each connection ends for exactly one of these.

    The value is (the word in logs and stats, the WebSocket close code that is sent).
    """

    CLIENT_CLOSED = ("client_closed", CloseCode.NORMAL)
    PEER_LOST = ("peer_lost", CloseCode.PEER_LOST)
    SLOW_CONSUMER = ("slow_consumer", CloseCode.SLOW_CONSUMER)
    PROTOCOL_ERROR = ("protocol_error", CloseCode.PROTOCOL_ERROR)
    INVALID_TEXT = ("invalid_text", CloseCode.INVALID_TEXT)
    MESSAGE_TOO_BIG = ("message_too_big", CloseCode.MESSAGE_TOO_BIG)
    POLICY = ("policy", CloseCode.POLICY)
    FLOOD = ("flood", CloseCode.POLICY)
    GRANT_ENDED = ("grant_ended", CloseCode.UNAUTHORIZED)
    LEFT = ("left", CloseCode.NORMAL)
    REPLACED = ("replaced", CloseCode.REPLACED)
    KICKED = ("kicked", CloseCode.KICKED)
    ROOM_CLOSED = ("room_closed", CloseCode.ROOM_CLOSED)
    SHUTDOWN = ("shutdown", CloseCode.SERVICE_RESTART)
    SERVER_ERROR = ("server_error", CloseCode.SERVER_ERROR)

    @property
    def word(self) -> str:
        return self.value[0]

    @property
    def close_code(self) -> CloseCode:
        return self.value[1]


class SlowConsumer(TriocastError):
    """An in-process subscriber did not keep up with its events and was cut off."""

    code = "slow_consumer"
    temporary = True
