"""A batch gives events their positions, versions and records, and can be undone completely."""

import attrs
import pytest

from triocast.documents import ABSENT, Document, Write, at
from triocast.engines.debounce import Debounce
from triocast.engines.documents import DOCUMENT_OVERHEAD, Standing
from triocast.engines.idempotency import RECORD_OVERHEAD, Record
from triocast.engines.retention import Keep, Retention
from triocast.engines.sqlite.batch import Batch
from triocast.engines.sqlite.channels import Channels
from triocast.engines.sqlite.rows import ROW_OVERHEAD, Channel, row_of
from triocast.engines.sqlite.store import Known
from triocast.engines.usage import Bounds, Usage
from triocast.errors import IdempotencyConflict, TooManyDocuments, VersionConflict
from triocast.events import Event, Once, Pending, Position, Publication

TIME = "2026-01-31T12:00:00.123Z"
HEAD = Position("e", 10)


def event(channel="a", data=b"1", **fields):
    return Event("T", data, channel, TIME, **fields)


def put(key, data=b"1", *, channel="d", condition=None, **fields):
    return event(channel, key=key, write=Write(data, condition), **fields)


def once(key="k", digest=b"1"):
    return Once("ann", key, 0, digest)


def publish(batch, events):
    batch.check(events)
    return tuple(batch.accept(event) for event in events)


@pytest.fixture
def channels():
    """Return one channel, "a", whose last event was 4; it keeps 2 events of 700 bytes."""
    known = Channel(1, "a", 2, 4, Keep(9), 2, 700)
    return Channels([known], {"n": 5}, Retention(Keep(9)))


@pytest.fixture
def debounce():
    return Debounce()


@pytest.fixture
def new_batch(channels, debounce):
    def new_batch(known=None, *, records_at=7.2, max_documents=5, document_bytes=10**6, now=100.0):
        return Batch(
            channels,
            debounce,
            Known(0, Usage()) if known is None else known,
            head=HEAD,
            bounds=Bounds(documents=max_documents, document_bytes=document_bytes),
            records_at=records_at,
            now=now,
        )

    return new_batch


def state(channels):
    return [attrs.astuple(channel, recurse=False) for channel in channels.by_id.values()]


class TestPositions:
    def test_they_follow_the_head_and_prev_follows_the_channel(self, new_batch, channels):
        batch = new_batch()
        published = publish(batch, [event(c) for c in ("a", "n:b", "a", "c", "n:b")])
        assert [p.position for p in published] == [Position("e", seq) for seq in range(11, 16)]
        assert [p.prev for p in published] == [4, 5, 11, 0, 12]
        assert batch.publications == list(published)
        changes = batch.changes
        assert changes.seq == 15
        assert [channel.name for channel in changes.channels] == ["n:b", "c"]
        names = {channel.id: channel.name for channel in channels.by_id.values()}
        assert [names[row[1]] for row in changes.rows] == ["a", "n:b", "a", "c", "n:b"]
        assert list(changes.rows) == [
            row_of(p, (c := channels.get(p.event.channel)).id, c.namespace) for p in published
        ]

    def test_a_later_publish_continues_from_an_earlier_one(self, new_batch):
        batch = new_batch()
        (first,) = publish(batch, [event("c")])
        (second,) = publish(batch, [event("c")])
        assert (second.seq, second.prev) == (first.seq + 1, first.seq)
        assert len(batch.changes.channels) == 1

    def test_channels_count_their_new_events(self, new_batch, channels):
        batch = new_batch()
        publish(batch, [event(data=b"123"), event("c"), event(), event("$conn:x")])
        assert batch.settle() == [channels.get("a"), channels.get("c")]
        known = channels.get("a")
        assert (known.last, known.count) == (13, 4)
        assert known.size == 700 + 2 * ROW_OVERHEAD + 4

    def test_an_event_for_one_connection_has_a_position_but_is_not_kept(self, new_batch, channels):
        batch = new_batch()
        published = publish(batch, [event("$conn:x"), event("$conn:x")])
        assert [(p.seq, p.prev) for p in published] == [(11, 0), (12, 0)]
        assert batch.publications == list(published)
        assert (batch.changes.seq, batch.changes.rows, batch.changes.channels) == (12, [], [])
        assert batch.settle() == []
        assert not batch.is_empty

    def test_undoing_restores_the_channels(self, new_batch, channels):
        before = state(channels)
        batch = new_batch()
        publish(batch, [event("a"), event("c"), event("a"), event("$conn:x")])
        batch.undo()
        assert state(channels) == before
        (again,) = publish(new_batch(), [event("a")])
        assert (again.seq, again.prev) == (11, 4)


class TestRecords:
    def test_what_is_known_is_answered_and_not_accepted(self, new_batch):
        known = Known(0, Usage(), {("ann", "k", 0): Record(b"1", 3, 2, "e")})
        batch = new_batch(known)
        (answer,) = publish(batch, [event(once=once())])
        assert (answer.position, answer.event.version) == (Position("e", 3), 2)
        assert batch.is_empty
        assert batch.changes.records == []

    def test_a_key_is_known_within_its_own_batch(self, new_batch):
        batch = new_batch()
        (first,) = publish(batch, [event(once=once())])
        again, other = publish(batch, [event(once=once()), event(once=once("l"))])
        assert (again.position, other.seq) == (first.position, first.seq + 1)
        assert len(batch.publications) == len(batch.changes.records) == 2

    def test_of_thousands_of_records_only_its_own_are_looked_at(self, new_batch):
        """Or a commit with many requests would take a step that grows with their square."""

        class Table(dict):
            def __iter__(self):
                raise AssertionError("all records are gone over")

            keys = values = items = __iter__

        records = {("ann", f"{i}", 0): Record(b"1", i, epoch="e") for i in range(3)}
        batch = new_batch(Known(0, Usage(), records=Table(records)))
        for key in ("0", "new", "2"):
            publish(batch, [event(once=once(key))])
        assert [p.event.once.key for p in batch.publications] == ["new"]

    def test_no_records_are_kept_if_idempotency_is_off(self, new_batch):
        batch = new_batch(records_at=None)
        published = [publish(batch, [event(once=once())]) for _ in range(2)]
        assert [p.seq for (p,) in published] == [11, 12]
        assert batch.changes.records == []


class TestDocuments:
    def test_each_write_has_a_version_of_its_own(self, new_batch):
        batch = new_batch(
            Known(7, Usage(documents=1, document_bytes=9), documents={("d", "k"): Standing(3, 9)})
        )
        published = publish(
            batch, [put("k", b"2", condition=at(3)), put("l", user="ann"), put("k")]
        )
        assert [p.event.version for p in published] == [8, 9, 10]
        assert {p.event.write for p in published} == {None}
        assert batch.changes.documents == {
            ("d", "k"): Document("d", "k", 10, b"1", TIME),
            ("d", "l"): Document("d", "l", 9, b"1", TIME, "ann"),
        }
        assert (batch.changes.revision, batch.revision, batch.added.documents) == (10, 10, 1)

    def test_a_later_write_sees_an_earlier_one(self, new_batch):
        batch = new_batch()
        publish(batch, [put("k", condition=ABSENT)])
        with pytest.raises(VersionConflict):
            publish(batch, [put("k", condition=ABSENT)])
        publish(batch, [put("k", None, condition=at(1))])
        assert batch.changes.documents == {("d", "k"): None}
        assert (batch.added.documents, batch.added.document_bytes) == (0, 0)
        (again,) = publish(batch, [put("k", condition=ABSENT)])
        assert again.event.version == 3

    def test_documents_in_the_servers_own_channels_do_not_count(self, new_batch):
        batch = new_batch(max_documents=1)
        publish(batch, [put("k", channel="$x:d"), put("l", channel="$x:d"), put("k")])
        assert batch.added.documents == 1
        with pytest.raises(TooManyDocuments):
            publish(batch, [put("l")])


class TestUsage:
    def test_each_kind_is_counted_by_itself(self, new_batch):
        batch = new_batch()
        publish(batch, [event(data=b"12"), event("$conn:x"), event(once=once())])
        assert batch.added == Usage(
            events=2, event_bytes=3 + 2 * ROW_OVERHEAD, records=1, record_bytes=4 + RECORD_OVERHEAD
        )
        publish(batch, [put("k", b"123"), put("k", b"1"), put("l"), put("l", None)])
        size = len("dk1") + DOCUMENT_OVERHEAD
        assert (batch.added.documents, batch.added.document_bytes) == (1, size)
        assert batch.added.events == 6

    def test_a_record_in_place_of_an_old_one_is_no_more(self, new_batch):
        batch = new_batch(Known(0, Usage(), expired={("ann", "k", 0)}))
        publish(batch, [event(once=once())])
        assert batch.added.records == 0

    def test_documents_are_bounded_in_bytes(self, new_batch):
        size = len("dk123") + DOCUMENT_OVERHEAD
        batch = new_batch(document_bytes=2 * size)
        publish(batch, [put("k", b"123"), put("l", b"123")])
        for refused in (put("k", b"1234"), put("m", b"")):
            with pytest.raises(TooManyDocuments, match="documents_bytes"):
                publish(batch, [refused])
        publish(batch, [put("k", b"12"), put("l", b"1234")])
        publish(batch, [put("k", None), put("m", b"1")])


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (put("k", condition=at(2)), VersionConflict),
        (put("l", once=once(digest=b"2")), IdempotencyConflict),
        (put("m"), TooManyDocuments),
    ],
)
def test_a_refused_publish_changes_nothing(new_batch, channels, last, error):
    records = {("ann", "k", 0): Record(b"1", 3)}
    batch = new_batch(
        Known(1, Usage(documents=1), records, documents={("d", "k"): Standing(1, 9)}),
        max_documents=2,
    )
    before = state(channels)
    with pytest.raises(error):
        publish(batch, [event("a"), put("l", once=once("other")), last])
    assert batch.is_empty
    assert state(channels) == before
    assert (batch.seq, batch.revision, batch.added) == (10, 1, Usage())
    (accepted,) = publish(batch, [put("l", condition=ABSENT)])
    assert (accepted.seq, accepted.event.version) == (11, 2)


class TestHeld:
    @pytest.fixture
    def debounce(self):
        return Debounce(60)

    def test_a_held_event_has_a_record_but_no_position(self, new_batch):
        batch = new_batch()
        first, held = publish(batch, [event(key="k"), event(data=b"2", key="k", once=once())])
        assert isinstance(first, Publication)
        assert held == Pending(event(data=b"2", key="k"))
        assert batch.publications == [first]
        (change,) = batch.changes.held
        assert (change.removed, change.event) == (None, held.event)
        (record,) = batch.changes.records
        assert record[:5] == ("ann", "k", 0, b"1", 0)
        (again,) = publish(batch, [event(data=b"2", key="k", once=once())])
        assert again == held

    def test_the_document_of_a_held_event_is_written_at_once(self, new_batch):
        batch = new_batch()
        _, held = publish(batch, [put("k"), put("k", b"2")])
        assert (held.event.version, held.event.write) == (2, None)
        assert batch.changes.documents["d", "k"].data == b"2"

    def test_a_held_event_is_released_when_it_is_due(self, new_batch):
        before = new_batch()
        publish(before, [event(key="k"), event(data=b"2", key="k")])
        before.settle()
        early = new_batch(now=159.0)
        early.release()
        assert early.is_empty
        batch = new_batch(now=160.0)
        batch.release()
        assert [p.event.data for p in batch.publications] == [b"2"]
        assert [(c.added, c.event) for c in batch.changes.held] == [(None, None)]

    def test_undoing_a_release_holds_the_event_again(self, new_batch, debounce):
        before = new_batch()
        publish(before, [event(key="k"), event(data=b"2", key="k")])
        before.settle()
        batch = new_batch(now=160.0)
        batch.release()
        batch.undo()
        again = new_batch(now=160.0)
        again.release()
        assert [p.event.data for p in again.publications] == [b"2"]
