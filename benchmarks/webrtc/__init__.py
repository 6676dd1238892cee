"""What the benchmark of WebRTC signaling is made of: raw clients, and pairs in a browser."""
