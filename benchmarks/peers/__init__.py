"""The servers that Triocast is compared with, in the order in which they take turns."""

from benchmarks.peers import (
    centrifugo,
    mercure,
    nchan,
    python_socketio,
    socket_io,
    starlette_sse,
)

PEERS = (
    nchan.PEER,
    centrifugo.PEER,
    mercure.PEER,
    starlette_sse.PEER,
    python_socketio.PEER,
    socket_io.PEER,
)
