"""A peer connection as browsers have it, as far as signaling can tell: states, glare, ICE."""

from dataclasses import dataclass, field


@dataclass
class FakePeerConnection:
    """Counts as connected when both ends agree, and each has all candidates of the other.

    ``local`` and ``remote`` are ICE user fragments: of what was negotiated, not of what is offered.
    """

    name: str
    state: str = "stable"
    local: str | None = None
    remote: str | None = None
    offered: str | None = None
    offer_id: int = 0
    complete: set[str] = field(default_factory=set)
    _count: int = 0

    def _new_fragment(self) -> str:
        self._count += 1
        return f"{self.name}.{self._count}"

    def create_offer(self, *, ice_restart: bool) -> str:
        """Also makes a new offer where one is out already, as browsers allow."""
        assert self.state in ("stable", "have-local-offer"), self.state
        if ice_restart or self.local is None:
            self.offered = self._new_fragment()
        else:
            self.offered = self.local
        self.state = "have-local-offer"
        self.offer_id += 1
        return self.offered

    def rollback(self) -> None:
        assert self.state == "have-local-offer", self.state
        self.state = "stable"
        self.offered = None

    def take_offer(self, fragment: str) -> str:
        """Return the fragment of the answer."""
        assert self.state == "stable", self.state
        if self.remote != fragment or self.local is None:
            self.local = self._new_fragment()
        self.remote = fragment
        return self.local

    def take_answer(self, fragment: str) -> None:
        assert self.state == "have-local-offer", self.state
        self.state = "stable"
        self.local, self.offered = self.offered, None
        self.remote = fragment


def are_connected(one: FakePeerConnection, other: FakePeerConnection) -> bool:
    return (
        one.state == other.state == "stable"
        and one.local is not None
        and one.local == other.remote
        and other.local == one.remote
        and one.remote in one.complete
        and other.remote in other.complete
    )
