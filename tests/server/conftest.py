"""Hypercorn's protocols without a network, and the server's clients over socket pairs."""

import socket

import attrs
import pytest
import trio
from hypercorn.events import Closed, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from triocast.node import Node, build_node
from triocast.server.config import hypercorn_config
from triocast.server.http import Service
from triocast.server.shortcuts import Shortcuts
from triocast.server.turnstile import Turnstile
from triocast.settings import Settings
from triocast.web.origins import Origins

from .clients import HTTPClient

# Protocols.


@attrs.define
class Sent:
    """What a protocol has told its server."""

    data: bytearray = attrs.field(factory=bytearray)
    events: list = attrs.field(factory=list)

    async def __call__(self, event):
        await trio.lowlevel.checkpoint()
        if isinstance(event, RawData):
            self.data += event.data
        else:
            self.events.append(event)

    def take(self):
        """Return the bytes since the last call."""
        data, self.data = bytes(self.data), bytearray()
        return data

    @property
    def is_closed(self):
        return any(isinstance(event, Closed) for event in self.events)

    @property
    def idle(self):
        """Whether the protocol waits for a request; None if it has never said so."""
        told = [event.idle for event in self.events if isinstance(event, Updated)]
        return told[-1] if told else None


@pytest.fixture
async def tasks():
    """Hypercorn's task group, cancelled at the end of the test."""
    with trio.CancelScope() as scope:
        async with TaskGroup() as group:
            yield group
            scope.cancel()


@pytest.fixture
async def open_protocol(tasks):
    """Make a protocol that answers with an ASGI application; return it and what it `Sent`."""

    async def open_protocol(kind, app, *, context=None, settings=Settings(), **options):  # noqa: B008
        sent = Sent()
        protocol = kind(
            wrap_app(app, 1_000, "asgi"),
            hypercorn_config(settings),
            context or WorkerContext(None),
            tasks,
            ConnectionState({}),
            False,
            ("127.0.0.1", 50_000),
            ("127.0.0.1", 8_000),
            sent,
            **options,
        )
        await protocol.initiate()
        return protocol, sent

    return open_protocol


# Connections.


@attrs.frozen
class Site:
    """What answers clients: a node that runs, and the service of a server that has it."""

    node: Node
    service: Service


@pytest.fixture
async def open_site(nursery):
    """Make a site. Requests that are no shortcuts go to ``app``, an ASGI application."""

    def open_site(app, *, takeover=True, ssl_context=None, **options):
        settings = Settings(insecure_anonymous=True, **options)
        node = build_node(settings)
        shortcuts = Shortcuts(node, Origins(()), max_head_bytes=settings.max_header_bytes)
        service = Service(
            app=app,
            config=hypercorn_config(settings),
            context=WorkerContext(None),
            state={},
            ssl_context=ssl_context,
            shortcuts=shortcuts if takeover else None,
            arrivals=Turnstile(),
            requests=Turnstile(),
            send_seconds=settings.heartbeat_seconds,
            note_flood=node.connections.note_flood,
        )
        for run in (node.run, service.arrivals.run, service.requests.run):
            nursery.start_soon(run)
        return Site(node, service)

    return open_site


@pytest.fixture
async def pair():
    """Make a client, and the non-blocking socket that a server would have accepted."""
    opened = []

    def pair():
        theirs, ours = socket.socketpair()
        opened.extend((theirs, ours))
        for end in (theirs, ours):
            end.setblocking(False)
        return HTTPClient(trio.SocketStream(trio.socket.from_stdlib_socket(theirs))), ours

    yield pair
    for end in opened:
        end.close()
