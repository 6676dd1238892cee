"""Whatever happens to up to six peers: when it is calm again, every pair is connected."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triocast.signaling.limits import Limits
from triocast.signaling.messages import Sizes

from .clients import FAR_AHEAD, Client
from .world import World

CAPABILITIES = [
    ["trickle", "rollback", "ice-restart", "data-relay"],
    ["trickle", "data-relay"],
]

STEPS = [
    "connect",
    "drop",
    "notice",
    "go away",
    "talk",
    "cut",
    "up",
    "up all",
    "down",
    "down all",
    "pump",
    "say",
    "renegotiate",
    "restart",
    "rebuild",
    "acknowledge",
    "leave",
    "return",
    "reload",
    "kick",
    "blip",
    "wait",
    "wait long",
    "wrong seq",
]


def play(world: World, step: str, one: int, other: int, number: int) -> None:
    """Do one step, if it makes sense now."""
    client = world.clients[one % len(world.clients)]
    links = sorted(client.links)
    peer = links[other % len(links)] if links else None
    match step:
        case "connect" if client.wants_in:
            world.connect(client)
        case "drop":
            world.drop(client)
        case "notice":
            world.notice()
        case "go away":
            world.drop(client)
            while world.unnoticed:
                world.notice()
        case "talk" if client.joined:
            for link in links:
                for _ in range(number):
                    client.say(link, next(world.numbers))
            while client.uplink:
                world.up(client)
        case "cut":
            world.cut(client)
        case "up" if client.uplink:
            world.up(client)
        case "up all":
            while client.uplink:
                world.up(client)
        case "down" if client.downlink:
            client.hear()
        case "down all":
            while client.downlink:
                client.hear()
        case "pump":
            world.pump()
        case "say" if peer is not None:
            for _ in range(number):
                client.say(peer, next(world.numbers))
        case "renegotiate" | "restart" if peer is not None:
            client.renegotiate(peer, ice_restart=step == "restart")
        case "rebuild" if peer is not None:
            client.rebuild(peer)
        case "acknowledge" if client.joined:
            client.acknowledge()
        case "leave" if client.joined:
            client.leave()
        case "return":
            client.wants_in = True
        case "reload" if client.wants_in:
            client.reload()
            world.connect(client)
        case "kick":
            world.kick(client)
        case "blip":
            world.pass_time(0.4)
        case "wait":
            world.pass_time(number)
        case "wait long":
            world.pass_time(world.limits.grace_seconds)
        case "wrong seq":
            # Too little, or more than there is; what it claims to have it will not get.
            client.lies_about_seq = FAR_AHEAD if number > 5 else number


LIMITS = st.builds(
    lambda most, kilobytes, seconds, blip, kept: Limits(
        peers_per_room=6,
        sizes=Sizes(message_bytes=1024, metadata_bytes=256),
        queue_messages=most,
        queue_bytes=kilobytes * 1024,
        queue_seconds=seconds,
        kept_bytes=max(2 * kilobytes, kept) * 1024,
        grace_seconds=10,
        blip_seconds=blip,
        relay_data=True,
    ),
    st.sampled_from([1, 3, 8, 200]),
    st.sampled_from([2, 64]),
    st.sampled_from([3, 30]),
    st.sampled_from([0, 1, 10]),
    st.sampled_from([4, 8, 1_000]),
)

ALWAYS = ["connect", "up all", "down all", "say", "talk", "go away", "wait"]


@st.composite
def scripts(draw):
    """A long list of few kinds of steps: deeper than one of all kinds. Left alone, lists are short
    in most examples, and too little comes together for anything to be lost.
    """
    kinds = [*ALWAYS, *draw(st.lists(st.sampled_from(STEPS), min_size=2, unique=True))]
    step = st.tuples(
        st.sampled_from(kinds), st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)
    )
    least, most = draw(st.sampled_from([(0, 10), (10, 40), (25, 40), (40, 150)]))
    return draw(st.lists(step, min_size=least, max_size=most))


CLIENTS = st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=2, max_size=6)


@settings(
    max_examples=settings.default.max_examples * 3, suppress_health_check=[HealthCheck.too_slow]
)
@given(limits=LIMITS, kinds=CLIENTS, start=st.booleans(), script=scripts())
def test_every_pair_is_connected_once_it_is_calm(limits, kinds, start, script):
    clients = [
        Client(f"client{n}", CAPABILITIES[kind], claims=claims)
        for n, (kind, claims) in enumerate(kinds)
    ]
    world = World(limits, clients)
    if start:
        for client in clients:
            world.connect(client)
        world.pump()
    for step in script:
        play(world, *step)
        world.check()
    world.calm()
    world.check_calm()
    world.everybody_goes()
