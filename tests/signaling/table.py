"""Rooms with a short way to say things to them and to see what everybody is told."""

import itertools
import json
from collections import defaultdict

from triocast.signaling.delivery import Close
from triocast.signaling.limits import Admission, Fresh, Limits
from triocast.signaling.messages import Join, Sizes, parse
from triocast.signaling.rooms import Rooms

ALL = ["trickle", "rollback", "ice-restart", "data-relay"]
LIMITS = {
    "sizes": Sizes(message_bytes=2_000, metadata_bytes=200),
    "queue_messages": 8,
    "queue_bytes": 4_000,
    "queue_seconds": 20,
    "grace_seconds": 30,
    "blip_seconds": 2,
}


class Table:
    """A connection has the name of who sits there; ``told`` is what each was told and not asked
    for yet, closes as ("close", code, reason)."""

    def __init__(self, ice_servers=None, **limits):
        parts = () if ice_servers is None else (ice_servers,)
        self.rooms = Rooms(Limits(**(LIMITS | limits)), *parts)
        self.now = 100.0
        self.told = defaultdict(list)
        self.tokens = {}
        self._numbers = itertools.count(1)

    def carry_out(self, effects):
        for effect in effects:
            if isinstance(effect, Close):
                self.told[effect.connection].append(("close", int(effect.code), effect.reason))
            else:
                self.told[effect.connection].append(json.loads(effect.data))

    def say(self, connection, admission=None, **message):
        """Send a message; return what its sender is told then."""
        read = parse(json.dumps({"id": "q", **message}), self.rooms.limits.sizes)
        return self.say_what_was_read(connection, read, admission)

    def say_what_was_read(self, connection, read, admission=None):
        """The same for a message that was parsed."""
        if isinstance(read, Join):
            fresh = Fresh(connection, f"token{next(self._numbers)}")
            admission = admission or Admission(subject=connection, may_send_data=True)
            self.carry_out(self.rooms.join(connection, read, admission, fresh, self.now))
        else:
            self.carry_out(self.rooms.handle(connection, read, self.now))
        return self.take(connection)

    def join(self, connection, room="r", can=ALL, **fields):
        """Join; return the answer, and remember the token."""
        answer = self.say(connection, type="join", room=room, capabilities=can, **fields)[0]
        if answer["type"] == "joined":
            self.tokens[connection] = answer["resume"]["token"]
        return answer

    def resume(self, connection, peer, last_seq, subject=None, room="r"):
        """Come back as a peer; return everything that is told."""
        return self.say(
            connection,
            Admission(subject=subject or peer),
            type="join",
            room=room,
            resume={"token": self.tokens[peer], "lastSeq": last_seq},
        )

    def signal(self, connection, kind, to, session, **fields):
        if kind in ("offer", "answer"):
            fields["description"] = {"type": kind, "sdp": "v=0"}
        if kind == "candidate":
            fields["candidate"] = {"candidate": "c"}
        return self.say(connection, type=kind, to=to, session=session, **fields)

    def lose(self, connection):
        self.carry_out(self.rooms.lost(connection, self.now))

    def wait(self, seconds):
        self.now += seconds
        self.carry_out(self.rooms.due(self.now))

    def take(self, connection):
        """Return what was told since it was last asked for."""
        return self.told.pop(connection, [])

    def take_types(self, connection):
        return [item if isinstance(item, tuple) else item["type"] for item in self.take(connection)]

    def pair(self):
        """Seat alice and then bob, who is the initiator; return their session."""
        self.join("alice")
        session = self.join("bob")["peers"][0]["session"]
        self.take("alice")
        return session
