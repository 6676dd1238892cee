"""What a client makes of an event stream."""


def blocks(body):
    """Return each block as a list of (field, value)."""
    assert body.endswith(b"\n\n")
    return [
        [tuple(line.split(": ", 1)) for line in block.split("\n")]
        for block in body.decode().removesuffix("\n\n").split("\n\n")
    ]
