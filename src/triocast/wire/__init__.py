"""The bytes on the wire. Pure: no I/O, no clock, no randomness, no Trio."""
