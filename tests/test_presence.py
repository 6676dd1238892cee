"""Who is on a channel, and what others are told of it."""

import json

import pytest
import trio
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from triocast import presence as module
from triocast.documents import Write
from triocast.engines import MemoryEngine
from triocast.engines.sqlite import SQLiteEngine
from triocast.errors import Disabled, InternalError, TooManyDocuments, Unavailable
from triocast.events import Event
from triocast.hub import Hub
from triocast.presence import JOIN, LEAVE, Presence
from triocast.publisher import Publisher
from triocast.settings import Namespace, Namespaces
from triocast.subscriptions import Subscriber

GRACE = 5.0
NAMESPACES = Namespaces({"room": Namespace(presence=True), "quiet": Namespace()})


class Encoder:
    def encode(self, publication):
        return publication

    def join(self, frames):
        return None


ENCODER = Encoder()


class Client(Subscriber):
    """Listens, and remembers what it was told."""

    encoder = ENCODER

    def __init__(self, id, user=None):
        self.id = id
        self.user = user
        self.got = []
        self.came = trio.Event()

    def deliver(self, joined, frames, publications):
        self.got += publications
        self.came.set()

    @property
    def told(self):
        return [
            ("+" if p.event.type == JOIN else "-") + p.event.key.partition(":")[2] for p in self.got
        ]


class World:
    """An engine, a hub and its presence, at work."""

    def __init__(self, engine):
        self.engine = engine
        self.hub = Hub(inbox_bytes=1_000_000, head=engine.head)
        engine.attach(self.hub)
        publisher = Publisher(engine, max_event_bytes=1_000, wait_seconds=1)
        self.presence = Presence(engine, publisher, namespaces=NAMESPACES, grace_seconds=GRACE)
        self.hub.watcher = self.presence
        self.listener = Client("listener", "listener")
        self.hub.add(self.listener)
        self.hub.subscribe(self.listener, ["$presence:room:a"])

    async def run(self, task_status=trio.TASK_STATUS_IGNORED):
        async with trio.open_nursery() as nursery:
            for task in (self.engine.run, self.hub.run, self.presence.run):
                nursery.start_soon(task)
            await wait_all_tasks_blocked()
            task_status.started()

    def join(self, id, user=None, *channels):
        client = Client(id, user)
        self.hub.add(client)
        self.hub.subscribe(client, channels or ["room:a"])
        return client

    async def settle(self):
        await wait_all_tasks_blocked()
        return self.listener.told

    async def counts(self, channel="room:a"):
        found = await self.presence.members(channel)
        return found["count"], found["connections"]

    async def keys(self, channel="room:a"):
        found = await self.presence.members(channel)
        return [member["key"] for member in found["members"]]


@pytest.fixture
async def world(nursery):
    world = World(memory())
    await nursery.start(world.run)
    return world


def memory(**bounds):
    return MemoryEngine(epoch="e", history_events=1_000, history_bytes=10_000_000, **bounds)


async def test_a_member_is_told_of_and_listed(autojump_clock, world):
    world.join("c1", "ann")
    assert await world.settle() == ["+ann"]
    found = await world.presence.members("room:a")
    (member,) = found["members"]
    (told,) = world.listener.got
    assert (member["key"], member["user"]) == ("user:ann", "ann")
    assert json.loads(told.event.data) == {"user": "ann", "since": member["since"]}
    assert told.event.version == member["version"] == found["version"]
    assert (found["count"], found["connections"], found["more"]) == (1, 1, False)


async def test_several_tabs_are_one_member(autojump_clock, world):
    tabs = [world.join(f"c{n}", "ann") for n in range(3)]
    assert await world.settle() == ["+ann"]
    assert await world.counts() == (1, 3)
    for tab in tabs[:2]:
        world.hub.remove(tab)
    await trio.sleep(10 * GRACE)
    assert await world.settle() == ["+ann"]
    world.hub.remove(tabs[2])
    assert await world.settle() == ["+ann"]
    await trio.sleep(GRACE)
    assert await world.settle() == ["+ann", "-ann"]
    assert await world.keys() == []
    assert await world.counts() == (0, 0)


async def test_a_reconnect_is_no_news(autojump_clock, world):
    for n in range(20):
        client = world.join(f"c{n}", "ann")
        await trio.sleep(1)
        world.hub.remove(client)
        await trio.sleep(GRACE - 0.1)
    assert await world.settle() == ["+ann"]
    assert await world.keys() == ["user:ann"]
    await trio.sleep(GRACE)
    assert await world.settle() == ["+ann", "-ann"]


async def test_who_comes_back_later_has_come_anew(autojump_clock, world):
    for n in range(2):
        client = world.join(f"c{n}", "ann")
        await world.settle()
        world.hub.remove(client)
        await trio.sleep(GRACE + 0.1)
    assert await world.settle() == ["+ann", "-ann"] * 2


async def test_unsubscribing_is_going(autojump_clock, world):
    client = world.join("c", "ann", "room:a", "room:b")
    await world.settle()
    world.hub.unsubscribe(client, ["room:a", "other"])
    await trio.sleep(GRACE)
    assert await world.settle() == ["+ann", "-ann"]
    assert (await world.keys(), await world.keys("room:b")) == ([], ["user:ann"])


async def test_subscribing_again_is_not_coming_twice(autojump_clock, world):
    client = world.join("c", "ann")
    world.hub.subscribe(client, ["room:a"])
    assert await world.settle() == ["+ann"]
    assert await world.counts() == (1, 1)
    world.hub.remove(client)
    world.hub.remove(client)
    await trio.sleep(GRACE)
    assert await world.settle() == ["+ann", "-ann"]


async def test_without_a_user_each_connection_is_a_member_and_its_id_is_not_told(
    autojump_clock, world
):
    world.join("secret-1")
    world.join("secret-2")
    await world.settle()
    keys = await world.keys()
    assert len(set(keys)) == 2
    assert not any("secret" in key for key in keys)
    assert "secret" not in repr(world.listener.got)


async def test_a_user_named_like_an_anonymous_member_is_another(autojump_clock, world):
    world.join("c1")
    await world.settle()
    (anonymous,) = await world.keys()
    world.join("c2", anonymous)
    await world.settle()
    assert len(await world.keys()) == 2


@pytest.mark.parametrize("name", ["room:*", "*", "plain", "quiet:a", "$presence:room:b"])
async def test_nobody_is_on_patterns_and_where_presence_is_off(autojump_clock, world, name):
    world.join("c", "ann", name)
    await world.settle()
    assert await world.engine.document_channels("$presence:") == ()


async def test_who_does_not_count_is_not_told_of(autojump_clock, world):
    client = Client("c", "ann")
    client.is_member = False
    world.hub.add(client)
    world.hub.subscribe(client, ["room:a"])
    assert await world.settle() == []


async def test_where_presence_is_off_asking_is_refused(autojump_clock, world):
    with pytest.raises(Disabled):
        await world.presence.members("quiet:a")
    with pytest.raises(Disabled):
        world.presence.check_names(["room:a", "$presence:quiet:a"])
    world.presence.check_names(["quiet:a", "$presence:room:a", "$all"])


async def test_a_list_comes_in_pages(autojump_clock, world):
    for n in range(5):
        world.join(f"c{n}", f"u{n}")
    await world.settle()
    page = await world.presence.members("room:a", limit=2, after="user:u0")
    assert [member["user"] for member in page["members"]] == ["u1", "u2"]
    assert (page["more"], page["count"]) == (True, 5)


async def test_the_count_is_of_the_members_that_are_listed(autojump_clock, world, monkeypatch):
    """Right after their arrival and in the time of grace, too."""

    async def look():
        found = await world.presence.members("room:a")
        return len(found["members"]), found["count"], found["connections"]

    publish = world.engine.publish

    async def slowly(events):
        await trio.sleep(0.5)
        return await publish(events)

    monkeypatch.setattr(world.engine, "publish", slowly)
    client = world.join("c", "ann")
    await wait_all_tasks_blocked()
    assert await look() == (0, 0, 0)
    await trio.sleep(1)
    assert await look() == (1, 1, 1)
    world.hub.remove(client)
    assert await look() == (1, 1, 0)
    await trio.sleep(GRACE + 1)
    assert await look() == (0, 0, 0)


async def test_who_cannot_come_keeps_nobody_from_going(autojump_clock, world, monkeypatch):
    client = world.join("c1", "ann")
    await world.settle()
    publish = world.engine.publish

    async def full(events):
        if any(event.type == JOIN for event in events):
            raise TooManyDocuments("full")
        return await publish(events)

    monkeypatch.setattr(world.engine, "publish", full)
    world.hub.remove(client)
    await trio.sleep(GRACE - 0.1)
    world.join("c2", "bob")
    await trio.sleep(10)
    assert await world.settle() == ["+ann", "-ann"]
    monkeypatch.setattr(world.engine, "publish", publish)
    await trio.sleep(2)
    assert await world.settle() == ["+ann", "-ann", "+bob"]


async def test_many_who_come_at_once_are_told_of_together(autojump_clock, world):
    clients = [world.join(f"c{n}", f"u{n:03}") for n in range(600)]
    assert await world.settle() == [f"+u{n:03}" for n in range(600)]
    for client in clients:
        world.hub.remove(client)
    await trio.sleep(GRACE)
    assert len(await world.settle()) == 1_200
    assert world.presence._count == 0
    assert not world.presence._channels


async def test_more_members_than_there_may_be_are_not_told_of(
    autojump_clock, world, monkeypatch, caplog
):
    monkeypatch.setattr(module, "MOST_MEMBERS", 2)
    clients = [world.join(f"c{n}", f"u{n}") for n in range(4)]
    assert await world.settle() == ["+u0", "+u1"]
    assert caplog.text.count("members; nobody is told of more") == 1
    for client in clients:
        world.hub.remove(client)
    await trio.sleep(GRACE)
    assert await world.settle() == ["+u0", "+u1", "-u0", "-u1"]


async def test_flapping_costs_no_memory(autojump_clock, world):
    for n in range(3_000):
        world.hub.remove(world.join(f"c{n}", "ann"))
    assert len(world.presence._going) < 1_000
    await trio.sleep(GRACE)
    assert await world.settle() == []
    assert world.presence._count == 0


async def test_changes_that_cannot_be_published_are_told_of_later(
    autojump_clock, world, monkeypatch
):
    ann, bob = world.join("c1", "ann"), world.join("c2", "bob")
    await world.settle()
    publish = world.engine.publish

    async def fail(events):
        raise Unavailable("no")

    monkeypatch.setattr(world.engine, "publish", fail)
    world.hub.remove(ann)
    world.hub.remove(bob)
    carl, dora = world.join("c3", "carl"), world.join("c4", "dora")
    await trio.sleep(GRACE + 2)
    world.hub.remove(dora)
    world.join("c5", "bob")
    await trio.sleep(GRACE + 2)
    assert await world.settle() == ["+ann", "+bob"]
    monkeypatch.setattr(world.engine, "publish", publish)
    await trio.sleep(2)
    assert sorted(await world.settle()) == ["+ann", "+bob", "+carl", "-ann"]
    world.hub.remove(carl)
    await trio.sleep(GRACE)
    await wait_all_tasks_blocked()
    assert await world.keys() == ["user:bob"]
    assert world.presence._count == 1


async def test_who_comes_back_while_its_going_is_told_is_told_of_anew(
    autojump_clock, world, monkeypatch
):
    client = world.join("c1", "ann")
    await world.settle()
    publish = world.engine.publish

    async def slowly(events):
        await trio.sleep(0.5)
        return await publish(events)

    monkeypatch.setattr(world.engine, "publish", slowly)
    world.hub.remove(client)
    await trio.sleep(GRACE + 0.1)
    client = world.join("c2", "ann")
    await trio.sleep(2)
    assert await world.settle() == ["+ann", "-ann", "+ann"]
    assert await world.keys() == ["user:ann"]
    world.hub.remove(client)
    await trio.sleep(GRACE + 0.1)
    world.hub.remove(world.join("c3", "ann"))
    await trio.sleep(2 * GRACE)
    assert await world.settle() == ["+ann", "-ann"] * 2
    assert world.presence._count == 0


async def test_while_the_server_goes_nobody_is_told_of(autojump_clock, world):
    client = world.join("c", "ann")
    await world.settle()
    world.presence.pause()
    world.hub.remove(client)
    world.join("c2", "bob")
    await trio.sleep(10 * GRACE)
    assert await world.settle() == ["+ann"]


async def at_once(function, *arguments, limiter):
    """Do what a store's thread would do, so that only the virtual clock counts."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


class TestAfterARestart:
    async def test_who_comes_back_is_no_news_and_who_does_not_is_gone(
        self, tmp_path, monkeypatch, autojump_clock
    ):
        monkeypatch.setattr(module, "PAGE_MEMBERS", 1)
        path = tmp_path / "events.db"

        async def run(use):
            bounds = {"history_events": 100, "history_bytes": 10_000_000, "durable": False}
            engine = SQLiteEngine(path, run_sync=at_once, **bounds)
            world = World(engine)
            async with trio.open_nursery() as nursery:
                await nursery.start(world.run)
                await use(world)
                nursery.cancel_scope.cancel()
            engine.close()

        async def before(world):
            for user in ("ann", "bob", "carl"):
                world.join(user, user)
            await told(world, 3)

        async def after(world):
            assert await world.keys() == ["user:ann", "user:bob", "user:carl"]
            assert await world.counts() == (3, 0)
            before = (await world.presence.members("room:a"))["members"][1]
            world.join("c", "bob")
            world.join("d", "dora")
            await told(world, 3)
            assert sorted(world.listener.told) == ["+dora", "-ann", "-carl"]
            found = await world.presence.members("room:a")
            assert found["members"][0] == before
            assert [member["user"] for member in found["members"]] == ["bob", "dora"]

        async def told(world, count):
            with trio.fail_after(100):
                while len(world.listener.got) < count:
                    world.listener.came = trio.Event()
                    await world.listener.came.wait()

        await run(before)
        await run(after)


# What is wrong with one member or one channel costs only that.


async def store(engine, channel, *members):
    """Keep members as an earlier run did; their data may be damaged."""
    for key, data in members:
        event = Event(
            type=JOIN,
            data=b"null",
            channel=f"$presence:{channel}",
            timestamp="2026-01-01T00:00:00.000Z",
            key=key,
            write=Write(data),
        )
        await engine.publish([event])


GOOD = b'{"user":"bob","since":"2026-01-01T00:00:00.000Z"}'


@pytest.mark.parametrize(
    "damaged", [b"", b"\xff\x00", b"{", b"[]", b"null", b'{"user":1}', b'{"since":null,"user":"x"}']
)
async def test_a_damaged_member_counts_as_gone_and_hurts_nobody(
    nursery, autojump_clock, caplog, damaged
):
    engine = memory()
    members = ("user:ann", damaged), ("user:bob", GOOD), ("anonymous:1", damaged)
    await store(engine, "room:a", *members)
    world = World(engine)
    await nursery.start(world.run)
    found = await world.presence.members("room:a")
    assert [(member["key"], member["user"]) for member in found["members"]] == [
        ("anonymous:1", None),
        ("user:ann", "ann"),
        ("user:bob", "bob"),
    ]
    assert all(isinstance(member["since"], str) for member in found["members"])
    assert "the stored member user:ann is damaged" in caplog.text
    world.join("c", "bob")
    world.join("d", "dora")
    await trio.sleep(module.RETURN_SECONDS + 1)
    assert sorted(await world.settle()) == ["+dora", "-1", "-ann"]
    assert await world.keys() == ["user:bob", "user:dora"]


@pytest.mark.parametrize("error", [InternalError(), KeyError("a bug")])
async def test_a_channel_that_is_given_up_hurts_no_other(
    nursery, autojump_clock, monkeypatch, caplog, error
):
    engine = memory()
    for channel in ("room:a", "room:b"):
        await store(engine, channel, ("user:ann", GOOD))
    documents = engine.documents

    async def fail(channel, **bounds):
        if channel == "$presence:room:b":
            raise error
        return await documents(channel, **bounds)

    monkeypatch.setattr(engine, "documents", fail)
    world = World(engine)
    await nursery.start(world.run)
    assert "by an error of ours" in caplog.text
    await trio.sleep(module.RETURN_SECONDS + 1)
    assert await world.settle() == ["-ann"]
    world.join("d", "dora")
    assert await world.settle() == ["-ann", "+dora"]


@pytest.mark.parametrize("error", [InternalError(), KeyError("a bug")])
async def test_when_nothing_of_before_can_be_read_those_who_come_are_told_all_the_same(
    nursery, autojump_clock, monkeypatch, caplog, error
):
    engine = memory()

    async def fail(prefix):
        raise error

    monkeypatch.setattr(engine, "document_channels", fail)
    world = World(engine)
    await nursery.start(world.run)
    world.join("d", "dora")
    assert await world.settle() == ["+dora"]
    assert "by an error of ours" in caplog.text


async def test_a_store_that_cannot_be_read_yet_is_waited_for(nursery, autojump_clock, monkeypatch):
    engine = memory()
    await store(engine, "room:a", ("user:ann", GOOD))
    list_channels, tries = engine.document_channels, []

    async def fail(prefix):
        tries.append(prefix)
        if len(tries) < 3:
            raise Unavailable("locked")
        return await list_channels(prefix)

    monkeypatch.setattr(engine, "document_channels", fail)
    world = World(engine)
    await nursery.start(world.run)
    await trio.sleep(module.RETURN_SECONDS + 5)
    assert await world.settle() == ["-ann"]


async def test_a_channel_that_cannot_be_read_now_keeps_nobody_waiting(
    nursery, autojump_clock, monkeypatch
):
    engine = memory()
    await store(engine, "room:b", ("user:bob", GOOD))
    documents, works = engine.documents, False

    async def fail(channel, **bounds):
        if channel == "$presence:room:b" and not works:
            raise Unavailable("its page is damaged")
        return await documents(channel, **bounds)

    monkeypatch.setattr(engine, "documents", fail)
    world = World(engine)
    await nursery.start(world.run)
    world.join("d", "dora")
    assert await world.settle() == ["+dora"]
    await trio.sleep(5)
    works = True
    await trio.sleep(10 + module.RETURN_SECONDS)
    assert await world.keys("room:b") == []


@pytest.mark.parametrize("error", [InternalError(), KeyError("a bug")])
async def test_a_change_that_cannot_be_published_is_given_up_and_the_others_are_told(
    autojump_clock, world, monkeypatch, caplog, error
):
    publish = world.engine.publish

    async def fail(events):
        if any(event.key == "user:ann" for event in events):
            raise error
        return await publish(events)

    monkeypatch.setattr(world.engine, "publish", fail)
    clients = [world.join(user, user) for user in ("ann", "bob", "carl")]
    assert await world.settle() == ["+bob", "+carl"]
    assert "could not be told, by an error of ours" in caplog.text
    for client in clients:
        world.hub.remove(client)
    await trio.sleep(GRACE)
    assert await world.settle() == ["+bob", "+carl", "-bob", "-carl"]
    assert world.presence._count == 0


steps = st.lists(
    st.tuples(
        st.sampled_from(["come", "come", "go", "wait", "look"]),
        st.integers(0, 3),
        st.sampled_from([0.0, 1.0, GRACE - 0.5, GRACE, 3 * GRACE]),
    ),
    max_size=30,
)


@examples(deadline=None)
@given(steps)
def test_lists_and_the_changes_behind_them_lead_to_who_is_there(script):
    """However people come and go: no ghosts, and nobody is missing."""

    async def play():
        world = World(memory())
        async with trio.open_nursery() as nursery:
            await nursery.start(world.run)
            there, looks, number = [], [], 0
            for what, who, seconds in script:
                if what == "come":
                    number += 1
                    there.append(world.join(f"c{number}", f"u{who}"))
                elif what == "go" and there:
                    world.hub.remove(there.pop(who % len(there)))
                elif what == "wait":
                    await trio.sleep(seconds)
                else:
                    looks.append(await world.presence.members("room:a"))
            await trio.sleep(2 * GRACE)
            await wait_all_tasks_blocked()
            right = sorted({f"user:{client.user}" for client in there})
            assert await world.keys() == right
            assert await world.counts() == (len(right), len(there))
            assert world.presence._count == len(right)
            for look in looks:
                assert look["count"] == len(look["members"])
                known = {member["key"] for member in look["members"]}
                for publication in world.listener.got:
                    event = publication.event
                    if event.version > look["version"]:
                        change = {JOIN: known.add, LEAVE: known.discard}[event.type]
                        change(event.key)
                assert sorted(known) == right
            kinds = {}
            for publication in world.listener.got:
                kinds.setdefault(publication.event.key, []).append(publication.event.type)
            for told in kinds.values():
                assert told == [JOIN, LEAVE] * (len(told) // 2) + [JOIN] * (len(told) % 2)
            nursery.cancel_scope.cancel()

    trio.run(play, clock=MockClock(autojump_threshold=0))
