"""Coming back: what was missed, over each way to the client and each transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from e2e.clients import Socket, Stream
from e2e.rest import call, post, publish
from e2e.servers import Server
from e2e.tokens import KEY, bearer

OTHER_STORE = "0.ffffffff.3"


def get(server: Server, path: str, query: str, **headers: str) -> Any:
    return call(server, "GET", f"/realtime/{path}?{query}", headers=headers)


@pytest.mark.parametrize("by", ["header", "query"])
def test_a_stream_continues_behind_its_last_event(server: Server, channel: str, by: str) -> None:
    ids = [publish(server, channel=channel, data=n)["id"] for n in range(4)]
    comes_back: dict[str, Any] = (
        {"headers": {"Last-Event-ID": ids[1]}} if by == "header" else {"last_event_id": ids[1]}
    )
    with Stream(server, channel=channel, **comes_back) as stream:
        assert stream.opened().id == ids[1]
        ids.append(publish(server, channel=channel, data=4)["id"])
        found = stream.events(3)
    assert [event["data"] for event in found] == [2, 3, 4]
    assert [event["id"] for event in found] == ids[2:]


def test_the_header_outweighs_the_query(server: Server, channel: str) -> None:
    ids = [publish(server, channel=channel, data=n)["id"] for n in range(3)]
    options = {"last_event_id": ids[0], "since": "latest"}
    with Stream(server, channel=channel, headers={"Last-Event-ID": ids[1]}, **options) as stream:
        stream.opened()
        assert stream.event()["data"] == 2


def test_a_stream_that_never_had_an_event_continues_too(server: Server, channel: str) -> None:
    with Stream(server, channel=channel) as stream:
        at = stream.opened().id
    publish(server, channel=channel, data="missed")
    with Stream(server, channel=channel, headers={"Last-Event-ID": str(at)}) as stream:
        stream.opened()
        assert stream.event()["data"] == "missed"


@pytest.mark.parametrize("id", [OTHER_STORE, "42", "0.x.y~"])
def test_a_browser_with_a_foreign_id_is_told_of_a_gap(
    server: Server, channel: str, id: str
) -> None:
    now = publish(server, channel=channel, data=0)["id"]
    with Stream(server, channel=channel, headers={"Last-Event-ID": id}) as stream:
        stream.opened()
        gap = stream.event()
        assert (gap["type"], gap["data"]["reason"], gap["id"]) == ("gap", "epoch", now)
        assert channel in gap["data"]["channels"]
        publish(server, channel=channel, data="live")
        assert stream.event()["data"] == "live"


def test_what_retention_has_removed_is_a_gap(server: Server, channel: str) -> None:
    first = publish(server, channel=channel, data=0)["id"]
    lines = b"".join(b'{"channel":"%s","data":%d}\n' % (channel.encode(), n) for n in range(1_001))
    target = "/realtime/broadcast"
    assert call(server, "POST", target, lines, "application/x-ndjson").status == 200
    with Stream(server, channel=channel, headers={"Last-Event-ID": first}) as stream:
        stream.opened()
        gap = stream.event()
        assert (gap["type"], gap["data"]["reason"]) == ("gap", "expired")
        assert gap["data"]["channels"] == [channel]
        publish(server, channel=channel, data="live")
        assert stream.event()["data"] == "live"


@pytest.mark.parametrize(
    "query", ["last_event_id=nonsense", "cursor=1", "since=ever", "last=0", "last=x", "last=1001"]
)
def test_a_wrong_start_is_refused(server: Server, query: str) -> None:
    for path in ("events", "poll") if not query.startswith("last_") else ("events",):
        answer = get(server, path, query)
        assert answer.status == 400
        assert answer.json["code"] in ("invalid_cursor", "bad_request")


def test_a_newcomer_gets_the_state_on_each_transport(server: Server, channel: str) -> None:
    kind = f"of {channel}"  # What was for all before belongs to the state, too.
    for data, key in ((1, "a"), (2, "b"), (3, "a")):
        publish(server, channel=channel, data=data, key=key, type=kind)
    with Stream(server, channel=channel, since="latest", type=kind) as stream:
        assert stream.opened().id is None
        assert [event["data"] for event in stream.events(2)] == [2, 3]
    with Socket(server) as socket:
        socket.ask(type="subscribe", channel=channel, last=1)
        assert socket.event()["data"] == 3
    query = urlencode({"channel": channel, "since": "latest", "type": kind})
    polled = get(server, "poll", query).json
    assert [event["data"] for event in polled["events"]] == [2, 3]


def test_a_websocket_continues_behind_its_cursor(server: Server, channel: str) -> None:
    ids = [publish(server, channel=channel, data=n)["id"] for n in range(3)]
    with Socket(server) as socket:
        reply = socket.ask(type="subscribe", channel=channel, cursor=ids[0])
        assert [socket.event()["data"] for _ in range(2)] == [1, 2]
        assert int(reply["cursor"].rpartition(".")[2]) >= int(ids[-1].rpartition(".")[2])
    with Socket(server, f"?channel={channel}&cursor={ids[1]}") as socket:
        assert socket.hello["id"] == ids[1]
        assert socket.event()["data"] == 2
        assert socket.event()["type"] == "live"


def test_a_poll_waits_and_its_cursor_leads_on(server: Server, channel: str) -> None:
    begin = get(server, "poll", f"channel={channel}").json
    assert begin["events"] == []
    publish(server, channel=channel, data=1)
    first = get(server, "poll", f"channel={channel}&cursor={begin['cursor']}&wait=30")
    assert [event["data"] for event in first.json["events"]] == [1]
    tag = first.headers["etag"]
    assert tag == f'"{first.json["cursor"]}"'
    same = get(server, "poll", f"channel={channel}&wait=0", **{"If-None-Match": tag})
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", tag)
    publish(server, channel=channel, data=2)
    new = get(server, "poll", f"channel={channel}&wait=0", **{"If-None-Match": tag})
    assert [event["data"] for event in new.json["events"]] == [2]


def test_history_pages_both_ways(server: Server, channel: str) -> None:
    for n in range(5):
        publish(server, channel=channel, data=n)

    def page(query: str = "") -> tuple[list[int], dict[str, Any]]:
        found = get(server, "history", f"channel={channel}&limit=2{query}").json
        return [event["data"] for event in found["events"]], found

    newest, found = page()
    assert (newest, found["more"], found["lost"]) == ([3, 4], True, [])
    middle, found = page(f"&before={found['before']}")
    assert (middle, found["more"]) == ([1, 2], True)
    oldest, first = page(f"&before={found['before']}")
    assert (oldest, first["more"]) == ([0], False)
    assert page(f"&after={first['after']}")[0] == [1, 2]
    again, found = page(f"&after={found['after']}")
    assert (again, found["more"]) == ([3, 4], False)
    assert page(f"&after={found['after']}")[0] == []


def test_a_page_ends_at_so_much_data_and_the_next_goes_on(server: Server, channel: str) -> None:
    numbers = list(range(160))
    for first in range(0, len(numbers), 10):
        some = numbers[first : first + 10]
        answer = post(
            server,
            "/realtime/broadcast",
            [{"channel": channel, "data": [n, "x" * 50_000]} for n in some],
        )
        assert answer.status == 200

    def read_on(direction: str, query: str = "") -> list[list[int]]:
        found = get(server, "history", f"channel={channel}&limit=1000{query}")
        assert len(found.body) < 8_000_000
        page = [event["data"][0] for event in found.json["events"]]
        if not found.json["more"]:
            return [page]
        return [page, *read_on(direction, f"&{direction}={found.json[direction]}")]

    backwards = read_on("before")
    assert [n for page in reversed(backwards) for n in page] == numbers
    epoch = get(server, "history", "limit=1").json["after"].split(".")[1]
    forwards = read_on("after", f"&after=0.{epoch}.0")
    assert [n for page in forwards for n in page] == numbers
    assert (len(backwards), len(forwards)) == (2, 2)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", f"after={OTHER_STORE}", "after=0.a.1&before=0.a.2"],
)
def test_a_wrong_page_is_refused(server: Server, query: str) -> None:
    answer = get(server, "history", query)
    assert answer.status == 400
    assert set(answer.json) == {"code", "message", "temporary"}


def test_an_administrator_removes_a_channels_history(server: Server, channel: str) -> None:
    ids = [publish(server, channel=channel, data=n)["id"] for n in range(3)]
    answer = call(server, "DELETE", f"/realtime/history?channel={channel}")
    assert (answer.status, answer.json) == (200, {"removed": 3})
    assert get(server, "history", f"channel={channel}").json["events"] == []
    with Stream(server, channel=channel, headers={"Last-Event-ID": ids[0]}) as stream:
        stream.opened()
        assert stream.event()["data"]["reason"] == "expired"
    assert call(server, "DELETE", "/realtime/history").status == 400


def test_a_users_own_history_is_removed_by_the_users_name(server: Server) -> None:
    publish(server, "/realtime/send", user_id="to-be-forgotten", data=1)
    answer = call(server, "DELETE", "/realtime/history?user=to-be-forgotten")
    assert answer.json == {"removed": 1}


def test_only_an_administrator_may_do_that(serve: Callable[..., Server]) -> None:
    server = serve("--token-key", KEY)
    weak = bearer("ann", subscribe=["*"], publish=["*"])
    answer = call(server, "DELETE", "/realtime/history?channel=a", headers=weak)
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
    assert call(server, "DELETE", "/realtime/history?channel=a", headers=bearer()).status == 200
    assert get(server, "history", "channel=a").status == 401
    only = bearer("ann", subscribe=["mine:*"])
    assert get(server, "history", "channel=a", **only).status == 403
    assert get(server, "poll", "channel=a", **only).status == 403
    assert get(server, "history", "channel=mine:a", **only).status == 200
