"""The files that browsers load have the right type, and are sent again only once they change."""

import re
from importlib.resources import files
from urllib.parse import urljoin

import pytest

from triocast.web.sdk import ASSETS, MODULES, POLICY

from .serving import serve

MODULE = "/realtime/sdk/signaling.js"
KINDS = {"js": "text/javascript", "css": "text/css", "demo": "text/html"}


@pytest.fixture
def server(nursery):
    return serve(nursery)


@pytest.mark.parametrize("path", ASSETS)
async def test_a_file_is_served_as_what_it_is(server, path):
    reply = await server.http.get(path)
    assert (reply.status_code, reply.content) == (200, ASSETS[path].body)
    assert reply.headers["content-type"] == f"{KINDS[re.split('[./]', path)[-1]]}; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == POLICY
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cache-control"] == "public, no-cache"


def test_different_files_have_different_tags():
    assert len({asset.tag for asset in ASSETS.values()}) == len(ASSETS)


def test_every_file_of_the_package_that_a_page_may_load_is_served():
    named = {path.rsplit("/", 1)[-1] for path in ASSETS}
    there = {file.name for file in files("triocast.web").joinpath("sdk").iterdir()}
    assert there - {"package.json"} == {"demo.html" if name == "demo" else name for name in named}


@pytest.mark.parametrize("path", ASSETS)
def test_what_a_file_loads_is_served_where_it_looks_for_it(path):
    text = ASSETS[path].body.decode()
    loaded = re.findall(r"""(?:from|src=|href=) ?"([^"]+\.(?:js|css))\"""", text)
    assert {urljoin(path, name) for name in loaded} <= ASSETS.keys()


def test_the_first_module_loads_all_others():
    reached = ["signaling.js"]
    for name in reached:
        text = ASSETS[f"/realtime/sdk/{name}"].body.decode()
        reached += [each for each in re.findall(r'from "\./(.+)"', text) if each not in reached]
    assert set(reached) == set(MODULES)


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("{}", 304),
        ("W/{}", 304),
        ('"other", W/{}', 304),
        ("*", 304),
        ('"other"', 200),
        ('W/"other"', 200),
    ],
)
async def test_a_client_that_has_the_file_gets_304(server, header, status):
    tag = ASSETS[MODULE].tag
    reply = await server.http.get(MODULE, headers={"If-None-Match": header.format(tag)})
    assert reply.status_code == status
    assert reply.headers["etag"] == tag
    assert reply.headers["cache-control"] == "public, no-cache"
    assert bool(reply.content) == ("content-type" in reply.headers) == (status == 200)


@pytest.mark.parametrize(
    ("name", "value", "status", "code"),
    [
        ("If-None-Match", "", 400, "bad_request"),
        ("If-None-Match", "no-quotes", 400, "bad_request"),
        ("If-Match", '"other"', 412, "version_conflict"),
    ],
)
async def test_a_condition_that_is_false_or_cannot_be_read_is_told(
    server, name, value, status, code
):
    reply = await server.http.get(MODULE, headers={name: value})
    assert (reply.status_code, reply.json()["code"]) == (status, code)


async def test_head_answers_as_get_does(server):
    reply = await server.http.head(MODULE)
    assert (reply.status_code, reply.headers["etag"]) == (200, ASSETS[MODULE].tag)


@pytest.mark.parametrize("name", ["", "package.json", "demo.html", "..%2Fsdk.py", "signaling.js/"])
async def test_nothing_else_is_served(server, name):
    assert (await server.http.get(f"/realtime/sdk/{name}")).status_code == 404


async def test_without_signaling_there_is_nothing_to_load(nursery):
    server = serve(nursery, signaling_enabled=False)
    for path in ASSETS:
        reply = await server.http.get(path, headers={"If-None-Match": "*"})
        assert (reply.status_code, reply.json()["code"]) == (404, "disabled")
