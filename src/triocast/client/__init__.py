"""Clients of a Triocast server, on Trio. Needs the extra ``client``."""

from triocast.client.signaling import (
    SignalingClient,
    SignalingClosed,
    SignalingPeer,
    open_signaling,
)

__all__ = ["SignalingClient", "SignalingClosed", "SignalingPeer", "open_signaling"]
