"""Starlette with sse-starlette: a queue per client, filled by whoever publishes."""

import asyncio

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

MOST_QUEUED = 1000

queues = set()


async def _events(queue):
    try:
        while (data := await queue.get()) is not None:
            yield {"data": data}
    finally:
        queues.discard(queue)


async def events(request):
    queue = asyncio.Queue(MOST_QUEUED)
    queues.add(queue)
    return EventSourceResponse(_events(queue))


async def publish(request):
    data = (await request.body()).decode()
    for queue in list(queues):
        try:
            queue.put_nowait(data)
        except asyncio.QueueFull:  # this client is too slow: its stream ends
            queues.discard(queue)
            queue.get_nowait()
            queue.put_nowait(None)
    return Response(status_code=202)


async def ready(request):
    return PlainTextResponse("ok")


app = Starlette(
    routes=[
        Route("/ready", ready),
        Route("/events", events),
        Route("/publish", publish, methods=["POST"]),
    ]
)
