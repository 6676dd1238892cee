"""What of a batch is for whom: the same as asking each subscription about each event."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triocast import portions as portions_module
from triocast.events import Event, Position, Publication, is_connection_channel, pattern_matches
from triocast.portions import Batch
from triocast.subscriptions import EVERYTHING, Filter, Subscriber, Subscriptions, make_filter


@attrs.define(eq=False)
class Encoder:
    """A frame says its event's ``seq``; a joined one the ``seq`` of all."""

    fails_for: int = 0
    encoded: list[int] = attrs.field(factory=list)
    joined: int = 0

    def encode(self, publication: Publication) -> str:
        self.encoded.append(publication.seq)
        if publication.seq == self.fails_for:
            raise RuntimeError("injected")
        return str(publication.seq)

    def encode_gap(self, publication: Publication) -> str:
        raise NotImplementedError

    def join(self, frames: list[str]) -> str:
        self.joined += 1
        return "+".join(frames)


SHARED = Encoder()


@attrs.define(eq=False)
class Listener(Subscriber):
    id: str
    user: str | None = None
    encoder: Encoder = SHARED

    def deliver(self, joined: object, frames: object, publications: object) -> None:
        raise NotImplementedError


def publication(seq: int, channel: str, type: str = "t", **fields: object) -> Publication:
    return Publication(Event(type, b"{}", channel, "", **fields), Position("e", seq), prev=0)


def batch_of(publications: Sequence[Publication], subscriptions: Subscriptions) -> Batch:
    batch = Batch(publications, subscriptions, lambda encoder, p: encoder.encode(p))
    for _ in batch.look_up():
        pass
    return batch


def seqs_for(listener: Listener, batch: Batch) -> list[int]:
    mask = batch.mask(listener)
    if not mask:
        return []
    return [p.seq for p in batch.portion(listener.encoder, mask).publications]


NAMES = ("a", "ab", "n:a", "n:b", "a*", "n:*", "*")
CHANNELS = ("a", "ab", "n:a", "n:b", "$all", "$conn:0", "$conn:1")
filters = st.builds(
    make_filter, st.sets(st.sampled_from("tu"), max_size=2), st.sets(st.sampled_from("xy"))
)
subscribed = st.tuples(st.integers(0, 2), st.sampled_from(NAMES), filters, st.integers(0, 8))
published = st.tuples(
    st.sampled_from(CHANNELS),
    st.sampled_from("tu"),
    st.sets(st.sampled_from("xy")),
    st.sampled_from([None, "0", "1"]),
)


@given(st.lists(subscribed, max_size=12), st.lists(published, min_size=1, max_size=8))
def test_each_gets_what_its_subscriptions_want(memberships, events):
    subscriptions = Subscriptions()
    listeners = [Listener(str(number)) for number in range(3)]
    has: dict[Listener, dict[str, tuple[Filter, int]]] = {}
    for listener in listeners:
        subscriptions.add(listener, EVERYTHING, 0)
        has[listener] = {"$all": (EVERYTHING, 0)}
    for number, name, filter, live in memberships:
        listener = listeners[number]
        subscriptions.join(listener, name, filter, live)
        if name not in has[listener] or has[listener][name][0] != filter:
            has[listener][name] = filter, live
    batch = [
        publication(seq, channel, type, tags=tuple(sorted(tags)), exclude=exclude)
        for seq, (channel, type, tags, exclude) in enumerate(events, 1)
    ]

    def wants(listener: Listener, publication: Publication) -> bool:
        channel = publication.event.channel
        if publication.event.exclude == listener.id:
            return False
        if is_connection_channel(channel):
            return channel == f"$conn:{listener.id}"
        return any(
            (name == channel or pattern_matches(name, channel))
            and live < publication.seq
            and filter.passes(publication)
            for name, (filter, live) in has[listener].items()
        )

    shares = batch_of(batch, subscriptions)
    for listener in listeners:
        wanted = [each.seq for each in batch if wants(listener, each)]
        assert seqs_for(listener, shares) == wanted


def subscribe(subscriptions: Subscriptions, listener: Listener, *names: str) -> Listener:
    subscriptions.add(listener, EVERYTHING, 0)
    for name in names:
        subscriptions.join(listener, name, EVERYTHING, 0)
    return listener


def test_all_who_get_the_same_get_the_same_portion():
    subscriptions, encoder = Subscriptions(), Encoder()
    crowd = [
        subscribe(subscriptions, Listener(str(number), encoder=encoder), "a", "b")
        for number in range(10)
    ]
    batch = batch_of([publication(1, "a"), publication(2, "b")], subscriptions)
    portions = {batch.portion(encoder, batch.mask(listener)) for listener in crowd}
    (portion,) = portions
    assert (portion.joined, portion.count, portion.first, portion.last) == ("1+2", 2, 1, 2)
    assert encoder.joined == 1


def test_whoever_left_gets_nothing():
    subscriptions = Subscriptions()
    left, unsubscribed = (subscribe(subscriptions, Listener(name), "a", "b") for name in ("l", "u"))
    batch = batch_of([publication(1, "a"), publication(2, "b")], subscriptions)
    subscriptions.remove(left)
    subscriptions.leave(unsubscribed, "a")
    assert (seqs_for(left, batch), seqs_for(unsubscribed, batch)) == ([], [2])


def test_few_portions_are_kept_and_each_event_is_encoded_once(monkeypatch):
    monkeypatch.setattr(portions_module, "MOST_KEPT", 2)
    subscriptions, encoder = Subscriptions(), Encoder()
    subscribe(subscriptions, Listener("a", encoder=encoder), "a")
    batch = batch_of([publication(seq, "a") for seq in range(1, 5)], subscriptions)
    for mask in (0b1, 0b10, 0b1111, 0b1, 0b1111):
        assert batch.portion(encoder, mask).mask == mask
        assert len(batch._kept) <= 2
    assert sorted(encoder.encoded) == [1, 2, 3, 4]


def test_an_event_that_cannot_be_encoded_concerns_only_those_who_would_get_it():
    encoder = Encoder(fails_for=2)
    batch = batch_of([publication(seq, "a") for seq in (1, 2, 3)], Subscriptions())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="injected"):
            batch.portion(encoder, 0b111)
    assert batch.portion(encoder, 0b101).joined == "1+3"
    assert encoder.encoded.count(2) == 1
