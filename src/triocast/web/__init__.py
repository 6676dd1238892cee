"""The Quart-Trio app: one file per family of endpoints. `create_app` makes it."""

from triocast.web.app import create_app, node_of

__all__ = ["create_app", "node_of"]
