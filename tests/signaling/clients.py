"""A client that knows only what it is told, and follows docs/reference/signaling.md."""

import json
from dataclasses import dataclass, field
from typing import Any

from .connections import FakePeerConnection

FAR_AHEAD = 10_000
CURED = {"queue-full", "expired"}
HARMLESS = {"peer-not-found", "stale-session", "peer-unreachable"}


@dataclass
class Link:
    """One peer, as this client sees it."""

    peer: str
    session: int
    initiator: bool
    polite: bool
    strict: bool
    pc: FakePeerConnection
    suspended: bool = False
    needs_cure: bool = False
    was_cured: bool = False


@dataclass
class Client:
    """``uplink`` is what was sent on its connection and not read yet, ``downlink`` the reverse."""

    name: str
    capabilities: list[str]
    claims: bool = False
    wants_in: bool = True
    connection: str | None = None
    joined: bool = False
    peer: str | None = None
    token: str | None = None
    last_seq: int = 0
    next_seq: int = 1
    unacknowledged: list[dict[str, Any]] = field(default_factory=list)
    links: dict[str, Link] = field(default_factory=dict)
    uplink: list[str] = field(default_factory=list)
    downlink: list[Any] = field(default_factory=list)
    heard: list[tuple[str, int]] = field(default_factory=list)
    said: list[tuple[int, str, int]] = field(default_factory=list)
    gaps: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    told: list[tuple[str, str, int, bool, bool, bool]] = field(default_factory=list)
    connections_made: int = 0
    lives: int = 0
    lies_about_seq: int | None = None

    # What it sends.

    def connect(self, connection: str) -> None:
        """Join on a new connection, resuming where that is possible."""
        self.connection = connection
        self.joined = False
        self.uplink, self.downlink = [], []
        join: dict[str, Any] = {
            "type": "join",
            "id": "join",
            "room": "room",
            "capabilities": self.capabilities,
            "metadata": {"name": self.name},
        }
        if self.claims:
            join["peer"] = self.name
        if self.token is not None:
            last_seq, lie = self.last_seq, self.lies_about_seq
            if lie is not None and (lie < last_seq or lie == FAR_AHEAD):
                last_seq = lie
            self.lies_about_seq = None
            join["resume"] = {"token": self.token, "lastSeq": last_seq}
        self.uplink.append(json.dumps(join))

    def drop(self) -> str | None:
        """Lose the connection, and everything that is on its way."""
        connection, self.connection = self.connection, None
        self.joined = False
        self.uplink, self.downlink = [], []
        return connection

    def forget(self) -> None:
        """Be nobody again."""
        self.lives += 1
        self.peer = self.token = None
        self.last_seq, self.next_seq, self.gaps = 0, 1, 0
        self.unacknowledged, self.links = [], {}
        self.joined = False

    def reload(self) -> None:
        """The page is loaded anew: nothing is left but the name."""
        self.forget()

    def leave(self) -> None:
        self.wants_in = False
        self._write({"type": "leave"})

    def acknowledge(self) -> None:
        self._write({"type": "pong", "seq": self.last_seq})

    def renegotiate(self, peer: str, *, ice_restart: bool) -> None:
        """What an application does: a track is added, the network has changed."""
        link = self.links[peer]
        if link.pc.state != "stable" or link.needs_cure:
            return
        if link.initiator or (not link.strict and link.pc.local is not None):
            self._offer(link, ice_restart=ice_restart)
        else:
            self._send({"type": "renegotiate", "iceRestart": ice_restart}, link)

    def rebuild(self, peer: str) -> None:
        """Begin anew with another RTCPeerConnection: the initiator's right."""
        link = self.links[peer]
        if link.initiator:
            link.session += 1
            link.pc = self._new_connection()
            self._offer(link, ice_restart=False)

    def say(self, peer: str, number: int) -> None:
        assert self.peer is not None
        self.said.append((self.lives, peer, number))
        self._send_numbered({"type": "data", "to": peer, "payload": number, "id": number})

    def _write(self, message: dict[str, Any]) -> None:
        if self.connection is not None:
            self.uplink.append(json.dumps(message))

    def _send(self, message: dict[str, Any], link: Link) -> None:
        self._send_numbered({**message, "to": link.peer, "session": link.session})

    def _send_numbered(self, message: dict[str, Any]) -> None:
        numbered = {**message, "seq": self.next_seq, "from": "somebody-else"}
        self.next_seq += 1
        self.unacknowledged.append(numbered)
        # What is said while there is no connection goes out after the resume.
        if self.joined:
            self._write(numbered)

    # Negotiation.

    def _new_connection(self) -> FakePeerConnection:
        self.connections_made += 1
        return FakePeerConnection(f"{self.name}-{self.connections_made}")

    def _offer(self, link: Link, *, ice_restart: bool) -> None:
        fragment = link.pc.create_offer(ice_restart=ice_restart)
        self._describe(link, "offer", fragment, link.pc.offer_id)

    def _describe(self, link: Link, kind: str, fragment: str, offer_id: int) -> None:
        self._send(
            {
                "type": kind,
                "description": {"type": kind, "sdp": f"v=0 {fragment}"},
                "offerId": offer_id,
            },
            link,
        )
        candidate = {"candidate": "candidate:1", "usernameFragment": fragment}
        self._send({"type": "candidate", "candidate": candidate}, link)
        self._send({"type": "end-of-candidates", "usernameFragment": fragment}, link)

    def _cure(self, link: Link) -> None:
        """Something of this pair was lost: have both sides say again what is open."""
        link.needs_cure, link.was_cured = False, True
        renegotiate = {"type": "renegotiate", "iceRestart": True, "reason": "gap"}
        self._send(renegotiate, link)
        if link.initiator or link.pc.state == "have-local-offer":
            self._offer(link, ice_restart=True)

    # What it hears.

    def hear(self) -> None:
        """Take the next message of the downlink."""
        item = self.downlink.pop(0)
        if isinstance(item, tuple):
            self._closed(*item)
            return
        message = json.loads(item)
        seq = message.get("seq")
        if seq is not None:
            if seq <= self.last_seq:
                return
            assert seq == self.last_seq + 1, (self.name, self.last_seq, message)
            self.last_seq = seq
        kind = message["type"].replace("-", "_")
        getattr(self, f"_on_{kind}")(message)

    def _closed(self, code: int) -> None:
        self.drop()
        if code == 1000 or code >= 4500:
            self.wants_in = False
            self.forget()

    def _on_joined(self, message: dict[str, Any]) -> None:
        resume = message["resume"]
        if not resume["resumed"]:
            self.forget()
        self.peer, self.token, self.joined = message["peer"], resume["token"], True
        self.last_seq = max(self.last_seq, resume["seq"]) if not resume["gap"] else resume["seq"]
        self.unacknowledged = [m for m in self.unacknowledged if m["seq"] > resume["received"]]
        for unsure in self.unacknowledged:
            self._write(unsure)
        if "peers" not in message:
            assert resume["resumed"]
            assert not resume["gap"]
            return
        present = {info["peer"] for info in message["peers"]}
        self.links = {peer: link for peer, link in self.links.items() if peer in present}
        if resume["gap"]:
            self.gaps += 1
        for info in message["peers"]:
            assert resume["resumed"] or info["initiator"], "the newcomer is not the initiator"
            self._meet(info)
            if resume["gap"]:
                self._cure(self.links[info["peer"]])

    def _meet(self, info: dict[str, Any]) -> None:
        assert self.peer is not None
        assert info["peer"] != self.peer
        told = (info["session"], info["initiator"], info["polite"], info["strict"])
        self.told.append((self.peer, info["peer"], *told))
        suspended = info["state"] == "suspended"
        link = self.links.get(info["peer"])
        if link is not None and link.session >= info["session"]:
            link.suspended = suspended
            return
        link = Link(info["peer"], *told, self._new_connection(), suspended)
        self.links[info["peer"]] = link
        if link.initiator:
            self._offer(link, ice_restart=False)

    def _on_peer_joined(self, message: dict[str, Any]) -> None:
        assert message["peer"] not in self.links, "came twice, and never left"
        assert not message["initiator"], "the newcomer is not the initiator"
        self._meet(message)

    def _on_peer_left(self, message: dict[str, Any]) -> None:
        assert self.links.pop(message["peer"], None) is not None, "left, but was never there"

    def _on_peer_state(self, message: dict[str, Any]) -> None:
        link = self.links[message["peer"]]
        suspended = message["state"] == "suspended"
        assert link.suspended is not suspended, "told what it knew"
        link.suspended = suspended
        if message["state"] == "connected" and link.needs_cure:
            self._cure(link)

    def _on_error(self, message: dict[str, Any]) -> None:
        self.errors.append(message)
        if message["code"] == "resume-failed":
            connection = self.connection
            self.forget()
            assert connection is not None
            self.connect(connection)
            return
        if message["code"] in ("room-full", "kicked", "replaced", "forbidden", "room-closed"):
            return
        assert message["code"] in CURED | HARMLESS, message
        link = self.links.get(message["to"])
        if link is not None and message["code"] in CURED:
            assert link.suspended, "nothing is lost to who is there"
            link.needs_cure = True

    def _link_of(self, message: dict[str, Any]) -> Link | None:
        """Return the link of this message, unless it is of an earlier session."""
        link = self.links[message["from"]]
        if message["session"] > link.session:
            link.session, link.pc = message["session"], self._new_connection()
        return link if message["session"] == link.session else None

    def _on_offer(self, message: dict[str, Any]) -> None:
        link = self._link_of(message)
        if link is None:
            return
        if link.pc.state == "have-local-offer":
            if not link.polite:
                return
            # Not even in a room full of simultaneous joins; only what was lost can bring it about.
            assert link.pc.local is not None or self.gaps or link.was_cured, "glare at first"
            link.pc.rollback()
        fragment = message["description"]["sdp"].split()[1]
        self._describe(link, "answer", link.pc.take_offer(fragment), message["offerId"])

    def _on_answer(self, message: dict[str, Any]) -> None:
        link = self._link_of(message)
        if link is None or link.pc.state != "have-local-offer":
            return
        if message["offerId"] == link.pc.offer_id:
            link.pc.take_answer(message["description"]["sdp"].split()[1])

    def _on_candidate(self, message: dict[str, Any]) -> None:
        self._link_of(message)

    def _on_end_of_candidates(self, message: dict[str, Any]) -> None:
        link = self._link_of(message)
        if link is not None:
            link.pc.complete.add(message["usernameFragment"])

    def _on_renegotiate(self, message: dict[str, Any]) -> None:
        link = self._link_of(message)
        if link is None:
            return
        if link.pc.state == "have-local-offer":
            if message.get("reason") == "gap":
                self._offer(link, ice_restart=True)
        elif link.initiator:
            self._offer(link, ice_restart=message["iceRestart"])

    def _on_data(self, message: dict[str, Any]) -> None:
        self.heard.append((message["from"], message["payload"]))
