"""WebRTC signaling: rooms, peers, and who begins. Pure: no I/O, no clock, no randomness, no Trio.

`messages` is the wire, `rooms` the state machine that an endpoint drives, `pairing` who offers,
`mailbox` what a peer may still need, `ice` the servers that peers are told to use.
"""
