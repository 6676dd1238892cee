"""How bytes reach a client: Server-Sent Events and WebSocket, over links of several kinds."""
