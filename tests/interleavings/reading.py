"""What a client makes of the bytes that arrived, by decoders that are not the product's.

h11 and httpx-sse read streams, the client's half of `websockets` reads frames. A tail that is
not whole is fine where the connection was cut; what is left of it must still be the beginning of
something that was to be sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import h11
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from websockets.extensions import Extension
from websockets.frames import Opcode
from websockets.protocol import OPEN, Protocol, Side

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
CHUNKED_HEAD = STREAM_HEAD + b"transfer-encoding: chunked\r\n\r\n"
CLOSING_HEAD = STREAM_HEAD + b"connection: close\r\n\r\n"
UPGRADE_HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


@attrs.frozen
class Event:
    """An event as the client has it; ``id`` is the cursor it carries, None without one."""

    content: dict[str, Any]
    id: str | None


@attrs.frozen
class Change:
    """The place in the stream where subscriptions changed; a greeting may carry a cursor."""

    id: str | None = None


@attrs.frozen
class Heartbeat:
    """``id`` is the cursor that a client would come back with, if it is told one."""

    id: str | None


@attrs.frozen
class Gap:
    """Some of these channels' events are not given; ``to`` is behind which they are again."""

    reason: str
    channels: tuple[str, ...]
    id: str
    start: str
    to: str


@attrs.frozen
class Members:
    """The answer to who is on a channel."""

    content: dict[str, Any]


@attrs.frozen
class Failure:
    """The answer to a request that was not carried out."""

    code: str


@attrs.frozen
class Farewell:
    """The last word of the server."""


Item = Event | Change | Heartbeat | Gap | Members | Failure | Farewell


def read_stream(arrived: bytes, *, head: bytes) -> list[Item]:
    """Read Server-Sent Events behind an HTTP response's head."""
    if len(arrived) < len(head):
        assert head.startswith(arrived), arrived
        return []
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(arrived)
    body, over = b"", False
    while (event := client.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
        if isinstance(event, h11.Data):
            body += event.data
        over = over or isinstance(event, h11.EndOfMessage)
    items = list(_blocks(body.decode()))
    assert not over, "a client that reads to the end of a response need not come back"
    assert Farewell() not in items[:-1]
    return items


def _blocks(text: str) -> Iterator[Item]:
    assert "\r" not in text, "a chunk within a chunk"
    whole, separator, tail = text.rpartition("\n\n")
    assert "retry: " not in tail.partition("data: ")[2], "a farewell within a block"
    lines, decoder = SSELineDecoder(), SSEDecoder()
    first = True
    for line in lines.decode(whole + separator) if whole else []:
        block = decoder.decode(line)
        if block is None:
            continue
        if first or block.event == "changed":
            yield Change(block.id or None if first else None)
        elif block.retry is not None:
            assert json.loads(block.data)["type"] == "ERROR"
            yield Farewell()
        elif not block.data or '"HEARTBEAT"' in block.data:
            yield Heartbeat(block.id)
        else:
            item = _message(block.data)
            assert isinstance(item, Event | Gap | Heartbeat)
            if isinstance(item, Event):
                yield Event(item.content, block.id)
            else:
                assert item.id == block.id
                yield item
        first = False


def read_frames(arrived: bytes, extensions: list[Extension], sent: Iterable[bytes]) -> list[Item]:
    """Read a WebSocket behind its head; ``sent`` are the frames of all events there were."""
    if len(arrived) < len(UPGRADE_HEAD):
        assert UPGRADE_HEAD.startswith(arrived)
        return []
    data = arrived[len(UPGRADE_HEAD) :]
    protocol = Protocol(Side.CLIENT, state=OPEN)
    protocol.extensions = extensions
    protocol.receive_data(data)
    items: list[Item] = []
    for frame in protocol.events_received():
        if frame.opcode is Opcode.TEXT:
            items.append(_message(bytes(frame.data).decode()))
        elif frame.opcode is Opcode.CLOSE:
            items.append(Farewell())
        else:
            assert frame.opcode is Opcode.PING
    assert protocol.close_sent is None or protocol.close_rcvd_then_sent, protocol.close_sent
    firsts, tail = _walk(data)
    assert 0x88 not in firsts[:-1], "something behind the close frame"
    assert not tail or firsts[-1:] != [0x88], "something behind the close frame"
    if tail[:1] and tail[0] & 0x40:
        assert any(frame.startswith(tail) for frame in sent), "not the beginning of any frame"
    elif tail[:1] == b"\x81":
        assert re.fullmatch(rb"[ -~]*", _payload(tail)), "something else within a text"
    return items


def read_messages(messages: list[str]) -> list[Item]:
    """Read the messages of a WebSocket whose frames are another server's."""
    return [_message(text) for text in messages]


def _message(text: str) -> Item:
    message = json.loads(text)
    match message["type"]:
        case "connected":
            return Change(message.get("id"))
        case "reply" if message["id"] == "members":
            return Members(message["data"])
        case "reply":
            assert message["id"] == "change"
            return Change()
        case "error":
            return Failure(message["code"])
        case "HEARTBEAT":
            return Heartbeat(message.get("id"))
        case "live":
            return Heartbeat(message["id"])
        case "gap":
            gap = message["data"]
            return Gap(gap["reason"], tuple(gap["channels"]), message["id"], gap["from"], gap["to"])
    return Event(message, message.get("id"))


def _walk(data: bytes) -> tuple[list[int], bytes]:
    """Return the first byte of each whole frame, and what is behind them."""
    firsts = []
    while len(data) >= 2:
        size = _size(data)
        if size is None or len(data) < size:
            break
        firsts.append(data[0])
        data = data[size:]
    return firsts, data


def _size(data: bytes) -> int | None:
    """How long the frame at the beginning is; None if not even that has arrived."""
    short = data[1]
    if short < 126:
        return 2 + short
    extended = 2 if short == 126 else 8
    if len(data) < 2 + extended:
        return None
    return 2 + extended + int.from_bytes(data[2 : 2 + extended], "big")


def _payload(tail: bytes) -> bytes:
    if len(tail) < 2:
        return b""
    return tail[2 + {126: 2, 127: 8}.get(tail[1], 0) :]
