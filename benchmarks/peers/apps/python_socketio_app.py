"""python-socketio as an ASGI app, next to a path for publishers and one for readiness."""

import json

import socketio

server = socketio.AsyncServer(
    async_mode="asgi",
    # The load client speaks WebSocket from the start, which is also the fastest way.
    transports=["websocket"],
    # It does not answer pings, so none comes while it measures.
    ping_interval=3600,
    ping_timeout=3600,
    # Frames are compressed only for clients that ask for it; the others do not even look.
    http_compression=False,
    logger=False,
    engineio_logger=False,
)
fan_out = socketio.ASGIApp(server)


async def _body(receive):
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _reply(send, status):
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def app(scope, receive, send):
    path = scope.get("path")
    if path == "/publish":
        await server.emit("bench", json.loads(await _body(receive)))
        await _reply(send, 202)
    elif path == "/ready":
        await _reply(send, 200)
    else:
        await fan_out(scope, receive, send)
