"""What bounds a WebSocket that Hypercorn serves."""

import pytest
from hypercorn.protocol.ws_stream import FrameTooLargeError
from wsproto.events import BytesMessage, TextMessage

from triocast.server.websocket import BoundedMessage


@pytest.mark.parametrize("kind", [TextMessage, BytesMessage])
def test_fragments_are_refused_before_they_are_kept(kind):
    message = BoundedMessage(10)
    part = "ä" * 3 if kind is TextMessage else bytes(6)
    message.extend(kind(data=part, message_finished=False))
    with pytest.raises(FrameTooLargeError):
        message.extend(kind(data=part, message_finished=False))
    assert message.size == 6
    message.clear()
    message.extend(kind(data=part, message_finished=True))
