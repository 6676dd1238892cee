"""Autobahn's cases (by way of kosoku), against an echo on our own frames.

Left out are the measurements of speed (9.*) and compression (12.* and 13.*), whose cases do not run
in kosoku 0.1: see test_compression.py for that.
"""

import json
import socket
import sys
from collections import Counter
from importlib.util import find_spec

import h11
import pytest
import trio
from tests.e2e.programs import missing
from websockets.utils import accept_key

from triocast.auth import Grant
from triocast.connections import Connections
from triocast.engines.memory import MemoryEngine
from triocast.hub import Hub
from triocast.server.messages import write_head
from triocast.settings import Namespace, Namespaces
from triocast.transports.deflate import make_deflate
from triocast.transports.links import SocketLink
from triocast.transports.websocket import WebSocketConnection
from triocast.wire import websocket as frames

pytestmark = pytest.mark.once

SECONDS = 60

SUITE = """
import asyncio, json, sys
from kosoku import FailureError, run_fuzzingclient

async def main():
    address, include, exclude = sys.argv[1], *map(json.loads, sys.argv[2:])
    try:
        results = await run_fuzzingclient(address, include, exclude, concurrency=8)
    except FailureError as failure:
        results = failure.results
    print(json.dumps([
        [r.case_id, r.behavior.value, r.behavior_close.value, r.result, r.result_close]
        for r in results
    ]))

asyncio.run(main())
"""


BAD = {"FAILED", "ERROR", "WRONG CODE", "UNCLEAN", "FAILED BY CLIENT"}


class Echo(WebSocketConnection):
    """Sends back what it gets."""

    def _listen(self):
        pass

    def _opened(self):
        self.push(b"")

    async def _handle(self, message):
        is_text = isinstance(message, str)
        payload = message.encode() if is_text else message
        self.push(frames.frame(frames.TEXT if is_text else frames.BINARY, payload))


class Echoes:
    """A server of echoes."""

    def __init__(self):
        engine = MemoryEngine(epoch="e", history_events=10, history_bytes=10_000)
        self.connections = Connections(
            engine,
            Hub(inbox_bytes=1_000, head=engine.head),
            most=100,
            outbox_bytes=20_000_000,
            heartbeat_seconds=30,
        )
        self.deflate = make_deflate(Namespaces({"n": Namespace(compress=True)}))

    async def serve(self, listener, nursery):
        while True:
            await trio.lowlevel.wait_readable(listener)
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            nursery.start_soon(self.serve_one, accepted)

    async def serve_one(self, accepted):
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
        parser = h11.Connection(h11.SERVER)
        while (request := parser.next_event()) is h11.NEED_DATA:
            parser.receive_data(await stream.receive_some())
        if not isinstance(request, h11.Request):
            await stream.aclose()
            return
        headers = {name.decode(): value.decode() for name, value in request.headers}
        answer = [
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-accept", accept_key(headers["sec-websocket-key"])),
        ]
        agreed = self.deflate.negotiate([headers.get("sec-websocket-extensions", "")])
        if agreed:
            answer.append(("sec-websocket-extensions", agreed))
        connection = Echo(
            self.connections, id="e", grant=Grant(), address=None, max_message_bytes=2_000_000
        )
        connection.use_frames(b"", deflate=self.deflate if agreed else None)
        connection.preface = write_head("101 Switching Protocols", answer)
        await connection.run(SocketLink(stream, accepted))


async def run_cases(nursery, include, exclude=()):
    """Return the results of the cases, each with its number, verdicts and reasons."""
    if find_spec("kosoku") is None:
        missing("install kosoku, which is among the test dependencies")
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)
    listener.setblocking(False)
    with listener, trio.fail_after(SECONDS):
        nursery.start_soon(Echoes().serve, listener, nursery)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-c", SUITE, address, json.dumps(include), json.dumps(exclude)]
        done = await trio.run_process(command, capture_stdout=True)
        nursery.cancel_scope.cancel()
    return json.loads(done.stdout)


def failures(results):
    return [result for result in results if BAD.intersection(result)]


async def test_messages_frames_and_closes_are_read_and_written_by_the_book():
    async with trio.open_nursery() as nursery:
        results = await run_cases(nursery, ["*"], ["9.*", "12.*", "13.*"])
    assert failures(results) == []
    assert Counter(result[1] for result in results)["OK"] >= 240
