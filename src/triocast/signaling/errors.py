"""What can go wrong in signaling; the codes are a contract with clients.

A client sees ``code``, ``message``, ``temporary`` and ``fatal`` (the connection is closed next).
The codes are written with hyphens, like the types of signaling's messages.
"""

from __future__ import annotations

from typing import ClassVar

from triocast.errors import TriocastError


class SignalingError(TriocastError):
    """The root of signaling's errors; ``wait`` is the seconds until a retry makes sense."""

    code = "internal"
    status = 500
    fatal: ClassVar[bool] = False

    def __init__(self, message: str, *, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class BadJSON(SignalingError):
    code = "bad-json"
    status = 400


class BadMessage(SignalingError):
    code = "bad-message"
    status = 400


class UnknownType(SignalingError):
    code = "unknown-type"
    status = 400


class UnsupportedVersion(SignalingError):
    code = "unsupported-version"
    status = 400


class BadDescription(SignalingError):
    code = "bad-description"
    status = 400


class MessageTooLarge(SignalingError):
    code = "message-too-large"
    status = 413


class NotJoined(SignalingError):
    code = "not-joined"
    status = 409


class AlreadyJoined(SignalingError):
    code = "already-joined"
    status = 409


class JoinUnauthorized(SignalingError):
    """The token does not do; for the endpoint to tell, which alone sees tokens."""

    code = "unauthorized"
    status = 401


class JoinForbidden(SignalingError):
    code = "forbidden"
    status = 403


class RoomNotFound(SignalingError):
    code = "room-not-found"
    status = 404


class RoomFull(SignalingError):
    code = "room-full"
    status = 503
    temporary = True


class TooManyJoins(SignalingError):
    """The user has come to this room too often of late."""

    code = "too-many-joins"
    status = 429
    temporary = True


class RoomLocked(SignalingError):
    code = "room-locked"
    status = 403


class PeerIdTaken(SignalingError):
    code = "peer-id-taken"
    status = 409


class PeerNotFound(SignalingError):
    code = "peer-not-found"
    status = 404


class PeerUnreachable(SignalingError):
    """The peer is there and does not take this kind of message."""

    code = "peer-unreachable"
    status = 409


class NotInitiator(SignalingError):
    """An offer from the side whose turn it is not; ``renegotiate`` asks the other for one."""

    code = "not-initiator"
    status = 409


class StaleSession(SignalingError):
    code = "stale-session"
    status = 409


class QueueFull(SignalingError):
    """The peer is suspended, and what waits for it has reached its bound."""

    code = "queue-full"
    status = 503
    temporary = True


class MessageExpired(SignalingError):
    """The peer stayed away for longer than a message waits."""

    code = "expired"
    status = 503
    temporary = True


class ResumeFailed(SignalingError):
    """The token is of no peer that waits for its connection; a join without it works."""

    code = "resume-failed"
    status = 409


class TurnUnavailable(SignalingError):
    code = "turn-unavailable"
    status = 503
    temporary = True


class Kicked(SignalingError):
    code = "kicked"
    status = 403
    fatal = True


class Replaced(SignalingError):
    """Told to the old connection of a peer that came back on a newer one."""

    code = "replaced"
    status = 409
    fatal = True


class RoomClosed(SignalingError):
    code = "room-closed"
    status = 404
    fatal = True
