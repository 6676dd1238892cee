"""Hostile HTTP/2, by prior knowledge on a clear port and, for the worst, by ALPN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from e2e.servers import Server

from .attacker import PATIENCE
from .bystanders import unharmed
from .raw_http2 import RawHttp2
from .raw_websocket import TEXT, frame

Attack = Callable[[RawHttp2], None]

ATTACKS: list[Attack] = []


def attack(function: Attack) -> Attack:
    """Put `function` on the table of attacks."""
    ATTACKS.append(function)
    return function


@attack
def data_behind_an_early_refusal(client: RawHttp2) -> None:
    """The answer is there before the body has ended, and the body goes on."""
    length = (b"content-length", b"99999999999")
    headers = client.request(
        b"/realtime/broadcast", length, (b"content-type", b"application/json"), method=b"POST"
    )
    client.send(client.headers(1, headers, "END_HEADERS"))
    client.until(lambda: client.over(1))
    client.send(*[DataFrame(1, b"a" * 1000) for _ in range(20)])


@attack
def data_behind_the_end(client: RawHttp2) -> None:
    client.send(client.get(1))
    client.until(lambda: 1 in client.ended or client.over(1))
    client.send(DataFrame(1, b"more"))


@attack
def data_in_the_segment_of_the_end(client: RawHttp2) -> None:
    client.send(client.get(1), DataFrame(1, b"more"))


@attack
def data_on_a_stream_never_opened(client: RawHttp2) -> None:
    client.send(DataFrame(7, b"a"))


@attack
def data_on_stream_zero(client: RawHttp2) -> None:
    client.send(b"\0\0\x01\0\0\0\0\0\0a")


@attack
def data_before_any_answer_then_reset(client: RawHttp2) -> None:
    headers = client.request(b"/realtime/broadcast", method=b"POST")
    client.send(
        client.headers(1, headers, "END_HEADERS"),
        DataFrame(1, b"{"),
        RstStreamFrame(1, 8),
        DataFrame(1, b"}"),
    )


@attack
def beyond_the_window(client: RawHttp2) -> None:
    client.send(
        client.headers(1, client.request(b"/realtime/broadcast", method=b"POST"), "END_HEADERS")
    )
    client.send(*[DataFrame(1, b"a" * 16_384) for _ in range(200)])


@attack
def path_beyond_ascii(client: RawHttp2) -> None:
    client.send(client.get(1, b"/\xff\xfe"))


@attack
def path_of_bad_utf8(client: RawHttp2) -> None:
    client.send(client.get(1, b"/%ff%fe"))


@attack
def path_without_slash(client: RawHttp2) -> None:
    client.send(client.get(1, b"healthz"))


@attack
def path_empty(client: RawHttp2) -> None:
    client.send(client.get(1, b""))


@attack
def connect_without_path(client: RawHttp2) -> None:
    client.send(
        client.headers(1, [(b":method", b"CONNECT"), (b":authority", b"a:80")], "END_HEADERS")
    )


@attack
def connect_without_protocol(client: RawHttp2) -> None:
    client.send(
        client.headers(1, client.request(b"/realtime/ws", method=b"CONNECT"), "END_HEADERS")
    )


@attack
def connect_with_another_protocol(client: RawHttp2) -> None:
    headers = (*client.request(b"/realtime/ws", method=b"CONNECT"), (b":protocol", b"\xff"))
    client.send(client.headers(1, headers, "END_HEADERS"))


@attack
def connect_that_ends_at_once(client: RawHttp2) -> None:
    headers = (*client.request(b"/realtime/ws", method=b"CONNECT"), (b":protocol", b"websocket"))
    client.send(client.headers(1, (*headers, (b"sec-websocket-version", b"13"))))


@attack
def websocket_subprotocol_beyond_ascii(client: RawHttp2) -> None:
    client.send(client.websocket(1, (b"sec-websocket-protocol", b"\xff")))


@attack
def websocket_extension_beyond_ascii(client: RawHttp2) -> None:
    client.send(client.websocket(1, (b"sec-websocket-extensions", b"\xff")))


@attack
def websocket_frame_with_the_request(client: RawHttp2) -> None:
    client.send(client.websocket(1), DataFrame(1, frame(TEXT, b"{}")))
    client.until_told_off(1)


@attack
def websocket_of_garbage(client: RawHttp2) -> None:
    client.send(client.websocket(1))
    client.until_told_off(1)
    client.send(DataFrame(1, b"\xff" * 1000))


@attack
def websocket_reset(client: RawHttp2) -> None:
    client.send(client.websocket(1))
    client.until_told_off(1)
    client.send(RstStreamFrame(1, 8), DataFrame(1, frame(TEXT, b"{}")))


@attack
def stream_reset_and_window(client: RawHttp2) -> None:
    client.send(client.get(1, b"/realtime/events"))
    client.until_told_off(1)
    client.send(
        RstStreamFrame(1, 8), WindowUpdateFrame(1, window_increment=1000), RstStreamFrame(1, 8)
    )


@attack
def goaway_and_more_requests(client: RawHttp2) -> None:
    client.send(client.get(1, b"/realtime/events"), GoAwayFrame(0, 0, 0), client.get(3))


@attack
def method_missing(client: RawHttp2) -> None:
    client.send(
        client.headers(1, [(b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/healthz")])
    )


@attack
def method_beyond_ascii(client: RawHttp2) -> None:
    client.send(client.headers(1, client.request(method=b"\xff")))


@attack
def authority_beyond_ascii(client: RawHttp2) -> None:
    headers = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"\xff"),
        (b":path", b"/healthz"),
    ]
    client.send(client.headers(1, headers))


@attack
def header_name_beyond_ascii(client: RawHttp2) -> None:
    client.send(client.headers(1, client.request(b"/healthz", (b"x-\xff", b"\xff"))))


@attack
def header_with_line_breaks(client: RawHttp2) -> None:
    client.send(client.headers(1, client.request(b"/healthz", (b"x-a", b"b\r\nc: d\0"))))


@attack
def cookie_and_cursor_beyond_ascii(client: RawHttp2) -> None:
    more = (
        (b"cookie", b"\xff"),
        (b"last-event-id", b"\xff"),
        (b"authorization", b"Bearer \xff"),
        (b"origin", b"\xff"),
    )
    client.send(client.headers(1, client.request(b"/realtime/events", *more)))


@attack
def length_in_words(client: RawHttp2) -> None:
    headers = client.request(b"/realtime/broadcast", (b"content-length", b"\xff"), method=b"POST")
    client.send(client.headers(1, headers))


@attack
def length_that_lies(client: RawHttp2) -> None:
    headers = client.request(b"/realtime/broadcast", (b"content-length", b"1"), method=b"POST")
    client.send(
        client.headers(1, headers, "END_HEADERS"), DataFrame(1, b"{}", flags=("END_STREAM",))
    )


@attack
def trailers_with_pseudo_headers(client: RawHttp2) -> None:
    client.send(
        client.headers(1, client.request(b"/realtime/broadcast", method=b"POST"), "END_HEADERS")
    )
    client.send(client.headers(1, [(b":path", b"/")]))


@attack
def header_block_of_garbage(client: RawHttp2) -> None:
    client.send(HeadersFrame(1, b"\xff" * 100, flags=("END_HEADERS", "END_STREAM")))


@attack
def priorities(client: RawHttp2) -> None:
    """1150 streams that exist only by their priority."""
    client.send(
        *[PriorityFrame(stream, depends_on=0, stream_weight=15) for stream in range(1, 2301, 2)]
    )


@attack
def priority_on_itself(client: RawHttp2) -> None:
    client.send(PriorityFrame(5, depends_on=5, stream_weight=15))


@attack
def priorities_in_a_circle(client: RawHttp2) -> None:
    client.send(client.get(1, b"/realtime/events"), client.get(3, b"/realtime/events"))
    client.until_told_off(3)
    for _ in range(50):
        client.send(
            PriorityFrame(1, depends_on=3, stream_weight=255, exclusive=True),
            PriorityFrame(3, depends_on=1, stream_weight=0, exclusive=True),
            PriorityFrame(9, depends_on=11, stream_weight=0, exclusive=True),
        )


@attack
def priority_on_a_closed_stream(client: RawHttp2) -> None:
    client.send(client.get(1))
    client.until(lambda: 1 in client.ended or client.over(1))
    client.send(
        PriorityFrame(1, depends_on=0, stream_weight=1),
        PriorityFrame(3, depends_on=1, stream_weight=1),
    )
    client.send(client.get(3))


@attack
def priorities_known_before_their_streams(client: RawHttp2) -> None:
    client.send(
        PriorityFrame(1, depends_on=3, stream_weight=1),
        PriorityFrame(3, depends_on=0, stream_weight=1),
    )
    client.send(client.get(1), client.get(3))
    client.until_told_off(3)


@attack
def window_overflow_of_the_connection(client: RawHttp2) -> None:
    client.send(
        WindowUpdateFrame(0, window_increment=2**31 - 1),
        WindowUpdateFrame(0, window_increment=2**31 - 1),
    )


@attack
def window_overflow_of_a_stream(client: RawHttp2) -> None:
    client.send(client.get(1, b"/realtime/events"))
    client.until_told_off(1)
    client.send(WindowUpdateFrame(1, window_increment=2**31 - 1))


@attack
def window_overflow_by_settings(client: RawHttp2) -> None:
    client.send(client.get(1, b"/realtime/events"))
    client.until_told_off(1)
    client.send(WindowUpdateFrame(1, window_increment=2**30))
    client.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 2**31 - 1}))


@attack
def window_of_zero(client: RawHttp2) -> None:
    client.send(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0")


@attack
def negative_window(client: RawHttp2) -> None:
    client.send(client.get(1, b"/realtime/events"))
    client.until_told_off(1)
    client.send(SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0}), client.get(3))


@attack
def settings_out_of_range(client: RawHttp2) -> None:
    client.send(
        SettingsFrame(0, settings={SettingsFrame.MAX_FRAME_SIZE: 1, SettingsFrame.ENABLE_PUSH: 7})
    )


@attack
def settings_of_five_bytes(client: RawHttp2) -> None:
    client.send(b"\0\0\x05\x04\0\0\0\0\0aaaaa")


@attack
def ping_of_three_bytes(client: RawHttp2) -> None:
    client.send(b"\0\0\x03\x06\0\0\0\0\0aaa")


@attack
def frame_too_large_in_full(client: RawHttp2) -> None:
    client.send(b"\0\x80\0\0\0\0\0\0\x01" + b"a" * 0x8000)


@attack
def frames_of_unknown_kinds(client: RawHttp2) -> None:
    client.send(*[b"\0\0\x01" + bytes([kind]) + b"\xff\0\0\0\x01a" for kind in range(16, 256)])


@attack
def push_promise_by_a_client(client: RawHttp2) -> None:
    client.send(
        client.get(1),
        PushPromiseFrame(1, 2, client.encoded(client.request()), flags=("END_HEADERS",)),
    )


@attack
def even_stream(client: RawHttp2) -> None:
    client.send(client.get(2))


@attack
def stream_numbers_going_back(client: RawHttp2) -> None:
    client.send(client.get(9), client.get(3))


@attack
def last_stream_number(client: RawHttp2) -> None:
    client.send(client.get(2**31 - 1), client.get(2**31 - 1))


@attack
def continuation_of_nothing(client: RawHttp2) -> None:
    client.send(ContinuationFrame(1, b"\x82", flags=("END_HEADERS",)))


@attack
def headers_interrupted(client: RawHttp2) -> None:
    client.send(
        client.headers(1, client.request(), "END_STREAM"), PingFrame(0, b"12345678"), client.get(3)
    )


@attack
def padding_beyond_the_frame(client: RawHttp2) -> None:
    client.send(b"\0\0\x02\0\x08\0\0\0\x01\xffa")


@attack
def rapid_reset(client: RawHttp2) -> None:
    """CVE-2023-44487, a thousand times."""
    for stream in range(1, 2001, 2):
        if not client.send(client.get(stream), RstStreamFrame(stream, 8)):
            return


@attack
def rapid_reset_of_event_streams(client: RawHttp2) -> None:
    for stream in range(1, 601, 2):
        if not client.send(client.get(stream, b"/realtime/events"), RstStreamFrame(stream, 8)):
            return


@attack
def rapid_reset_provoked(client: RawHttp2) -> None:
    """CVE-2025-8671: the server is made to reset the streams by itself."""
    for stream in range(1, 1001, 2):
        if not client.send(
            client.get(stream), b"\0\0\x04\x08\0" + stream.to_bytes(4, "big") + bytes(4)
        ):
            return


@attack
def too_many_streams(client: RawHttp2) -> None:
    client.send(*[client.get(stream, b"/realtime/events") for stream in range(1, 5001, 2)])


@attack
def empty_data(client: RawHttp2) -> None:
    client.send(
        client.headers(1, client.request(b"/realtime/broadcast", method=b"POST"), "END_HEADERS")
    )
    for _ in range(100):
        if not client.send(*[DataFrame(1, b"") for _ in range(100)]):
            return


@attack
def garbage(client: RawHttp2) -> None:
    client.send(bytes(range(64)) * 2000)


THE_WORST: list[Attack] = [
    data_behind_an_early_refusal,
    path_beyond_ascii,
    connect_without_path,
    priorities,
    rapid_reset,
    websocket_subprotocol_beyond_ascii,
    garbage,
]


def _run(server: Server, run: Attack) -> None:
    with unharmed(server) as scene:
        client = RawHttp2(scene.attacker)
        run(client)
        client.round_trip()


@pytest.mark.parametrize("run", ATTACKS, ids=lambda run: run.__name__)
def test_by_prior_knowledge(server: Server, run: Attack) -> None:
    _run(server, run)


@pytest.mark.parametrize("run", THE_WORST, ids=lambda run: run.__name__)
def test_by_alpn(tls_server: Server, run: Attack) -> None:
    _run(tls_server, run)


@pytest.mark.parametrize(
    "run",
    [
        path_beyond_ascii,
        connect_without_path,
        connect_without_protocol,
        connect_with_another_protocol,
    ],
    ids=lambda run: run.__name__,
)
def test_a_bad_request_costs_its_own_stream_at_most(server: Server, run: Attack) -> None:
    """A 4xx, a reset of the stream or the end of this connection; not a 5xx, and not silence."""
    with unharmed(server) as scene:
        client = RawHttp2(scene.attacker)
        run(client)
        client.until_told_off(1)
    assert client.status.get(1, 400) < 500


def test_an_answer_before_the_end_of_the_body_leaves_the_connection_alone(server: Server) -> None:
    with unharmed(server) as scene:
        client = RawHttp2(scene.attacker)
        data_behind_an_early_refusal(client)
        assert client.status[1] in (400, 413)
        client.send(client.get(3))
        client.until_told_off(3)
    assert client.status[3] == 200


def test_requests_beyond_any_count_do_not_freeze_the_streams(server: Server) -> None:
    """1 100 requests beside an event stream on one connection: Hypercorn's default says GOAWAY
    at 1 000."""
    with unharmed(server) as scene:
        client = RawHttp2(scene.attacker)
        client.send(client.get(1, b"/realtime/events"))
        client.until_told_off(1)
        client.send(
            WindowUpdateFrame(0, window_increment=2**30),
            WindowUpdateFrame(1, window_increment=2**30),
        )
        for stream in range(3, 2203, 2):
            client.send(client.get(stream))
            client.until(lambda stream=stream: stream in client.ended, patience=PATIENCE)
        mark = scene.publish(1, 0)[0].encode()
        client.until(lambda: mark in client.body[1])
