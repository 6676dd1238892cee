"""``WS /realtime/webrtc/signaling``: peers find each other; and REST for who moderates rooms."""

from __future__ import annotations

from typing import Annotated, Final

import attrs
import msgspec
import trio
from quart import Blueprint, Response, request

from triocast.errors import BadRequest, Disabled, WrongContentType
from triocast.events import LONGEST_USER
from triocast.node import Node
from triocast.signaling.messages import is_room
from triocast.signaling.subjects import address_subject, may_be_proxy, user_subject
from triocast.transports.signaling import SUBPROTOCOL, SignalingConnection
from triocast.turns import finish
from triocast.web.answers import json_answer
from triocast.web.asgi import StreamResponse
from triocast.web.body import RequestBody
from triocast.web.call import Call
from triocast.web.current import (
    admin_grant,
    current_call,
    current_node,
    grant_of,
    new_connection_id,
)
from triocast.web.parameters import check_query
from triocast.web.publish import read_text
from triocast.wire import json

PATH: Final = "/realtime/webrtc/signaling"
ROOMS_PATH: Final = "/realtime/webrtc/rooms"
MOST_ROOMS: Final = 1_000
LONGEST_BAN: Final = 30 * 86_400

blueprint = Blueprint("signaling", __name__)


@blueprint.websocket(PATH)
async def accept_peer() -> Response:
    """Let a client in; see `open_signaling`."""
    node, call = current_node(), current_call()
    connection = open_signaling(node, call)
    node.connections.admit(connection)
    return StreamResponse(connection, subprotocol=choose_subprotocol(call))


def open_signaling(node: Node, call: Call) -> SignalingConnection:
    """Return the connection of a client that is about to join a room.

    A token may come with the handshake or, as browsers cannot send headers, with the ``join``.
    Raises TriocastError for what is refused.
    """
    if node.signaling is None:
        raise Disabled("signaling is switched off here")
    check_query(call, "GET /realtime/webrtc/signaling")
    authenticator = node.authenticator
    waits_for_token = authenticator.needs_token and not authenticator.has_token(
        call.headers, call.query
    )
    if waits_for_token:
        node.connections.check_room()  # Nobody gives way to one who is not let in.
        node.signaling.strangers.make_room(call.address)
    return SignalingConnection(
        node.connections,
        node.signaling,
        id=new_connection_id(),
        grant=None if waits_for_token else grant_of(node, call),
        grant_of=authenticator.grant_of_token if authenticator.has_key else None,
        address=call.address,
        shares_address=_shares_address(call),
    )


def _shares_address(call: Call) -> bool:
    """Whether the client comes through a proxy of ours, as all others do.

    Only a proxy that is near is believed: others say what they like, to evade a ban.
    """
    headers = call.headers
    return may_be_proxy(call.address) and ("X-Forwarded-For" in headers or "Forwarded" in headers)


def choose_subprotocol(call: Call) -> str | None:
    """Return our subprotocol if the client offers it."""
    return SUBPROTOCOL if SUBPROTOCOL in call.headers.tokens("Sec-WebSocket-Protocol") else None


# For administrators.

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_USER)]
"""A user or an address. Bans are remembered: what is neither must not fill the memory."""


class _Order(msgspec.Struct, forbid_unknown_fields=True, tag_field="action"):
    room: str


class Kick(_Order, tag="kick"):
    """Remove a peer; ``ban_seconds`` keeps its user out for a while."""

    peer: str
    ban_seconds: float = 0


class Ban(_Order, tag="ban"):
    """Remove the peers of a user, or of those without one at an address, and keep them out."""

    seconds: float
    user: Name | None = None
    address: Name | None = None


class Unban(_Order, tag="unban"):
    user: Name | None = None
    address: Name | None = None


class Lock(_Order, tag="lock"):
    """Let nobody new in."""


class Unlock(_Order, tag="unlock"):
    pass


class CloseRoom(_Order, tag="close"):
    """End the room for everybody."""


_orders: Final = msgspec.json.Decoder(Kick | Ban | Unban | Lock | Unlock | CloseRoom)


@blueprint.get(ROOMS_PATH)
async def rooms() -> Response:
    """Answer the names of the rooms, or the peers of one (``room``)."""
    node, call = current_node(), current_call()
    check_query(call, "GET /realtime/webrtc/rooms")
    admin_grant(node, call)
    signaling = node.signaling
    if signaling is None:
        raise Disabled("signaling is switched off here")
    name = call.query.get("room")
    if name is None:
        names = signaling.rooms.rooms
        found = {"rooms": names[:MOST_ROOMS], "count": len(names)}
        return json_answer({**found, "peers": signaling.rooms.peer_count}).as_response()
    peers = [attrs.asdict(peer) for peer in signaling.rooms.view(_check_room(name))]
    return json_answer({"room": name, "peers": peers}).as_response()


@blueprint.post(ROOMS_PATH)
async def moderate() -> Response:
    """Carry out ``{"action": …, "room": …}``: kick, ban, unban, lock, unlock or close."""
    node, call = current_node(), current_call()
    check_query(call, "POST /realtime/webrtc/rooms")
    admin_grant(node, call)
    signaling = node.signaling
    if signaling is None:
        raise Disabled("signaling is switched off here")
    if not call.has_json:
        raise WrongContentType("send the order as application/json")
    body = request.body
    assert isinstance(body, RequestBody)
    text = await read_text(call, body, node.settings.handshake_seconds)
    await finish(json.checking(text, max_depth=node.settings.max_json_depth))
    order = json.decode(_orders, text)
    room, known, now = _check_room(order.room), signaling.rooms, trio.current_time()
    done = {"done": True}
    match order:
        case Kick():
            seconds = _check_seconds(order.ban_seconds)
            if seconds:
                done["banned"] = any(
                    peer.id == order.peer and peer.subject is not None for peer in known.view(room)
                )
            signaling.carry_out(known.kick(room, order.peer, now, ban_seconds=seconds))
        case Ban():
            seconds = _check_seconds(order.seconds)
            signaling.carry_out(known.ban(room, _subject(order), now, seconds=seconds))
        case Unban():
            known.unban(room, _subject(order))
        case Lock():
            known.lock(room)
        case Unlock():
            known.lock(room, False)
        case CloseRoom():
            signaling.carry_out(known.close_room(room, now))
    return json_answer(done).as_response()


def _check_room(name: str) -> str:
    if not is_room(name):
        raise BadRequest("this cannot be the name of a room")
    return name


def _check_seconds(seconds: float) -> float:
    if not 0 <= seconds <= LONGEST_BAN:
        raise BadRequest(f"a ban lasts from 0 to {LONGEST_BAN} seconds")
    return seconds


def _subject(order: Ban | Unban) -> str:
    if (order.user is None) == (order.address is None):
        raise BadRequest("a ban is of a 'user' or of an 'address'")
    if order.user is not None:
        return user_subject(order.user)
    try:
        return address_subject(order.address or "")
    except ValueError:
        raise BadRequest("an 'address' is one of IPv4 or IPv6, or an IPv6 network of /64") from None
