// Who is in the room: what becomes of peers and their connections when lines and servers go.

import assert from "node:assert/strict";
import { describe as group, test } from "node:test";

import * as sdk from "../../../src/triocast/web/sdk/signaling.js";
import { describe, entry, joined, listen, settle, world } from "./world.mjs";

const EVENTS = ["status", "joined", "peer", "left", "failed", "data", "error", "closed"];

/** A client that has joined a room. */
async function join(t, { peers = [], ttl = null, options = {} } = {}) {
  const all = world(t);
  const given = { room: "room", metadata: { name: "me" }, ...options };
  const client = new sdk.SignalingClient("http://here/realtime/webrtc/signaling", given);
  const seen = listen(client, ...EVENTS);
  await settle();
  await all.sockets[0].open();
  await all.sockets[0].say(joined({ peers, ttl }));
  return { client, seen, ...all };
}

/** A client with an open connection to the peer `far`. */
async function connect(t, given = {}) {
  const all = await join(t, { peers: [entry("far", given)] });
  const description = describe("answer", "far");
  await all.sockets[0].say({ type: "answer", from: "far", session: 1, description, seq: 1 });
  await all.connections[0].become("connected");
  all.seen.length = 0;
  return all;
}

/** Break the line, and have the server take or refuse the one that follows. */
async function comeBack({ sockets, clock }, ...messages) {
  await sockets.at(-1).end(1006);
  await clock.pass(250);
  await sockets.at(-1).open();
  await sockets.at(-1).say(...messages);
  return sockets.at(-1);
}

const FORGOTTEN = { type: "error", code: "resume-failed", re: "join", temporary: false };
const types = (seen) => seen.map(([type]) => type);
const negotiation = (socket) => socket.of("offer", "answer", "renegotiate");

test("what pages import", () => {
  const names = ["Peer", "SUBPROTOCOL", "SignalingClient", "backoff", "fingerprints", "isFinal"];
  assert.deepEqual(Object.keys(sdk).sort(), names);
});

test("it introduces itself", async (t) => {
  const { client, sockets, seen } = await join(t, { options: { relayData: true } });
  const [socket] = sockets;
  assert.deepEqual([socket.url, socket.protocol], [
    "ws://here/realtime/webrtc/signaling",
    sdk.SUBPROTOCOL,
  ]);
  const { metadata, capabilities, room } = socket.sent[0];
  assert.match(metadata.instance, /^[0-9a-f]{24}$/);
  assert.deepEqual([room, metadata.name], ["room", "me"]);
  assert.deepEqual(capabilities, ["trickle", "rollback", "ice-restart", "data-relay"]);
  assert.deepEqual(seen, [
    ["status", { status: "joined" }],
    ["joined", { resumed: false }],
  ]);
  assert.deepEqual([client.id, client.status], ["me", "joined"]);
});

test("without a room there is no client", () => {
  assert.throws(() => new sdk.SignalingClient("http://here/", {}), TypeError);
});

group("the server has forgotten us", () => {
  test("connections are kept, and go on under new ids", async (t) => {
    const all = await connect(t);
    const { client, connections, seen } = all;
    const [peer] = client.peers;
    const socket = await comeBack(all, FORGOTTEN);
    assert.deepEqual(client.peers, [peer]);
    assert.equal(socket.of("join").at(-1).resume, undefined);
    const back = entry("far-2", { instance: "of far", session: 1001 });
    await socket.say(joined({ peer: "me-2", peers: [back] }));
    assert.deepEqual([client.id, client.peers[0] === peer, peer.id], ["me-2", true, "far-2"]);
    const [offer, ...others] = negotiation(socket);
    assert.deepEqual([offer.to, offer.session, others.length], ["far-2", 1001, 0]);
    assert.match(offer.description.sdp, /ice-ufrag:pc1-1/);
    assert.deepEqual([connections.length, connections[0].connectionState], [1, "connected"]);
    assert.deepEqual(types(seen), ["status", "status", "status", "joined"]);
  });

  test("somebody else with the same metadata is another peer", async (t) => {
    const all = await connect(t);
    const [peer] = all.client.peers;
    const socket = await comeBack(all, FORGOTTEN);
    await socket.say(joined({ peers: [entry("other", { instance: "of other" })] }));
    assert.equal(all.client.peers.length, 2);
    assert.equal(all.client.peers.at(-1), peer);
    assert.equal(all.connections.length, 2);
  });

  test("a connection that is no good any more needs new candidates", async (t) => {
    const all = await connect(t);
    await all.connections[0].become("disconnected");
    const socket = await comeBack(all, FORGOTTEN);
    await socket.say(joined({ peers: [entry("far-2", { instance: "of far", session: 1001 })] }));
    assert.match(negotiation(socket)[0].description.sdp, /ice-ufrag:pc1-2/);
  });

  test("one that fails meanwhile is lost", async (t) => {
    const all = await connect(t);
    await comeBack(all, FORGOTTEN);
    await all.connections[0].become("failed");
    assert.deepEqual(all.client.peers, []);
    assert.equal(all.seen.at(-1)[1].reason, "lost");
    assert.equal(all.connections[0].connectionState, "closed");
  });

  test("what was never connected is lost at once", async (t) => {
    const all = await join(t, { peers: [entry("far")] });
    await comeBack(all, FORGOTTEN);
    assert.deepEqual(all.client.peers, []);
    assert.deepEqual(all.seen.at(-1)[1].reason, "lost");
  });
});

group("the line is back", () => {
  test("and what works is left alone", async (t) => {
    const all = await connect(t);
    const socket = await comeBack(all, joined({ resumed: true, received: 1, peers: undefined }));
    assert.deepEqual(negotiation(socket), []);
  });

  test("and what does not is tried again", async (t) => {
    const all = await connect(t);
    await all.connections[0].become("disconnected");
    const socket = await comeBack(all, joined({ resumed: true, received: 1, peers: undefined }));
    assert.deepEqual(negotiation(socket).map(({ type }) => type), ["offer"]);
  });

  test("with a gap: every pair is mended, and who is gone is gone", async (t) => {
    const all = await join(t, { peers: [entry("far"), entry("gone")] });
    const [far, gone] = all.client.peers;
    const peers = [entry("far"), entry("new", { initiator: false })];
    const back = joined({ resumed: true, gap: true, seq: 7, received: 2, peers });
    const socket = await comeBack(all, back);
    assert.deepEqual(all.client.peers.map(({ id }) => id), ["far", "new"]);
    assert.equal(all.client.peers[0], far);
    assert.deepEqual([gone.state, gone.pc.connectionState], ["closed", "closed"]);
    const mended = negotiation(socket).map(({ type, to, reason }) => [type, to, reason]);
    assert.deepEqual(mended, [
      ["renegotiate", "far", "gap"],
      ["renegotiate", "new", "gap"],
      ["offer", "far", undefined],
    ]);
  });
});

group("peers that leave", () => {
  for (const reason of ["left", "kicked"]) {
    test(`${reason}: are gone`, async (t) => {
      const { client, sockets, seen, connections } = await connect(t);
      await sockets[0].say({ type: "peer-left", peer: "far", reason, seq: 2 });
      assert.deepEqual([client.peers, seen[0][1].reason], [[], reason]);
      assert.equal(connections[0].connectionState, "closed");
    });
  }

  for (const reason of ["timeout", "replaced"]) {
    test(`${reason}: are kept while they are connected`, async (t) => {
      const { client, sockets, seen, connections } = await connect(t);
      await sockets[0].say({ type: "peer-left", peer: "far", reason, seq: 2 });
      assert.deepEqual([client.peers.length, seen], [1, []]);
      assert.equal(connections[0].connectionState, "connected");
      const session = 1001;
      const back = entry("far-2", { instance: "of far", session, initiator: false });
      await sockets[0].say({ type: "peer-joined", seq: 3, ...back });
      assert.deepEqual(client.peers.map(({ id }) => id), ["far-2"]);
      assert.equal(connections.length, 1);
    });
  }
});

group("somebody who says to be a peer that is away", () => {
  const session = 1001;

  /** The peer `far` is away, and `fake` has its instance. */
  async function claim(t, given = {}) {
    const all = await connect(t);
    const [socket] = all.sockets;
    const [peer] = all.client.peers;
    await socket.say({ type: "peer-left", peer: "far", reason: "timeout", seq: 2 });
    const come = (id, more = {}) => {
      const info = entry(id, { instance: "of far", session, ...given, ...more });
      return socket.say({ type: "peer-joined", ...info });
    };
    const hear = (from, type, name, more = {}) =>
      socket.say({ type, from, session, description: describe(type, name), ...more });
    await come("fake");
    assert.deepEqual(all.client.peers, [peer]);
    return { ...all, peer, socket, come, hear };
  }

  /** The connection to `far` is up, and is that of whoever shows its certificate. */
  async function isFree({ client, connections, peer, come, hear }) {
    assert.deepEqual([peer.pc, peer.state], [connections[0], "connected"]);
    assert.equal(connections[0].connectionState, "connected");
    await come("far-2", { initiator: false, session: 1002 });
    const before = connections.length;
    await hear("far-2", "offer", "far", { session: 1002, offerId: 1 });
    assert.deepEqual([peer.id, connections.length], ["far-2", before]);
    assert.ok(client.peers.includes(peer));
  }

  for (const [said, description] of [
    ["another certificate", describe("answer", "fake")],
    ["no certificate", { type: "answer", sdp: "v=0\r\n" }],
  ]) {
    test(`and answers with ${said} is another`, async (t) => {
      const all = await claim(t);
      await all.hear("fake", "answer", "", { description });
      const other = all.client.peers.find(({ id }) => id === "fake");
      assert.deepEqual([all.peer.id, all.client.peers.length], ["far", 2]);
      assert.deepEqual([other.pc, other.metadata], [all.connections[1], { name: "fake" }]);
      assert.match(negotiation(all.socket).at(-1).description.sdp, /sha-256 pc2/);
      assert.equal(other.pc.remoteDescription, null); // it was about another offer
      await isFree(all);
    });
  }

  for (const ahead of [0, 1]) {
    test(`and offers another connection is another (${ahead})`, async (t) => {
      const all = await claim(t, { initiator: false });
      await all.hear("fake", "offer", "fake", { session: session + ahead, offerId: 1 });
      const { type, to, description } = negotiation(all.socket).at(-1);
      assert.deepEqual([type, to], ["answer", "fake"]);
      assert.match(description.sdp, /sha-256 pc/);
      assert.doesNotMatch(description.sdp, /sha-256 pc1\r/);
      await isFree(all);
    });
  }

  test("and leaves takes nothing along", async (t) => {
    const all = await claim(t);
    await all.socket.say({ type: "peer-left", peer: "fake", reason: "left" });
    assert.deepEqual([all.peer.id, all.client.peers], ["far", [all.peer]]);
    await all.clock.pass(20_000);
    assert.deepEqual(types(all.seen), []);
    await isFree(all);
  });

  test("does not keep it from the peer itself", async (t) => {
    const all = await claim(t);
    await isFree(all);
    assert.deepEqual(all.client.peers.map(({ id }) => id).sort(), ["fake", "far-2"]);
  });

  test("and shows it is the peer", async (t) => {
    const all = await claim(t);
    await all.hear("fake", "answer", "far", { offerId: 2 });
    assert.deepEqual([all.connections.length, all.peer.id], [1, "fake"]);
    // From now on it may do what any peer may.
    await all.socket.say({ type: "peer-left", peer: "fake", reason: "left" });
    assert.deepEqual([all.client.peers, all.connections[0].connectionState], [[], "closed"]);
  });
});

for (const code of ["queue-full", "expired"]) {
  test(`what the server could not keep (${code}) is mended when the peer is back`, async (t) => {
    const { sockets } = await connect(t);
    const [socket] = sockets;
    socket.sent.length = 0;
    const about = { to: "far", session: 1, temporary: true, message: "" };
    await socket.say({ type: "peer-state", peer: "far", state: "suspended", seq: 2 });
    await socket.say({ type: "error", code, seq: 3, ...about });
    assert.deepEqual(negotiation(socket), []);
    await socket.say({ type: "peer-state", peer: "far", state: "connected", seq: 4 });
    assert.deepEqual(negotiation(socket).map(({ type, reason }) => [type, reason]), [
      ["renegotiate", "gap"],
      ["offer", undefined],
    ]);
  });
}

group("the end", () => {
  const ends = [
    [4500, "left"],
    [4501, null],
    [4502, "kicked"],
    [4503, "closed"],
  ];
  for (const [code, reason] of ends) {
    test(`by the close code ${code} ${reason ? "ends" : "keeps"} connections`, async (t) => {
      const { client, sockets, seen, connections, clock } = await connect(t);
      await sockets[0].end(code, "why");
      assert.deepEqual(seen.slice(0, 2), [
        ["status", { status: "closed" }],
        ["closed", { code, reason: "why" }],
      ]);
      assert.equal(connections[0].connectionState, reason ? "closed" : "connected");
      assert.deepEqual(seen.slice(2).map(([, detail]) => detail.reason), reason ? [reason] : []);
      assert.equal(client.peers.length, reason ? 0 : 1);
      await clock.pass(600_000);
      assert.equal(sockets.length, 1);
    });
  }

  test("by close() ends connections, also after the line has ended", async (t) => {
    const { client, sockets, seen, connections } = await connect(t);
    await sockets[0].end(4501);
    client.close();
    assert.deepEqual([client.peers, connections[0].connectionState], [[], "closed"]);
    assert.equal(seen.at(-1)[1].reason, "left");
    assert.deepEqual(seen.filter(([type]) => type === "closed").length, 1);
  });
});

test("who comes and goes leaves some connections behind, and not ever more", async (t) => {
  const { client, sockets, connections, seen } = await join(t);
  for (let n = 1; n <= 100; n += 1) {
    const far = `far-${n}`;
    await sockets[0].say({ type: "peer-joined", ...entry(far, { initiator: false }) });
    await connections.at(-1).become("connected");
    await sockets[0].say({ type: "peer-left", peer: far, reason: "timeout" });
  }
  const open = connections.filter(({ connectionState }) => connectionState === "connected");
  assert.deepEqual([open.length, client.peers.length], [64, 64]);
  const left = seen.filter(([type]) => type === "left");
  assert.deepEqual([left.length, left[0][1].peer.id, left[0][1].reason], [36, "far-1", "lost"]);
});

group("ICE servers", () => {
  const asks = (socket) => socket.of("get-ice-servers").length;

  test("are asked for when four fifths of their time are over", async (t) => {
    const { sockets, clock, client, connections } = await join(t, {
      peers: [entry("far")],
      ttl: 10,
    });
    const [socket] = sockets;
    await clock.pass(7_999);
    assert.equal(asks(socket), 0);
    await clock.pass(1);
    assert.equal(asks(socket), 1);
    const iceServers = [{ urls: "turn:127.0.0.2" }];
    await socket.say({ type: "ice-servers", iceServers, iceServersTtl: 10, re: "ice" });
    assert.deepEqual(connections[0].configurations.at(-1), { iceServers });
    await clock.pass(8_000);
    assert.equal(asks(socket), 2);
    await socket.say({ type: "error", code: "turn-unavailable", re: "ice", temporary: true });
    await clock.pass(10_000);
    assert.equal(asks(socket), 3);
    client.close();
  });

  test("are not asked for on a line that has not joined", async (t) => {
    const { sockets, clock } = await join(t, { ttl: 10 });
    await clock.pass(7_000);
    await sockets[0].end(1006);
    await clock.pass(250);
    await sockets[1].open();
    await clock.pass(5_000);
    assert.deepEqual(sockets[1].sent.map(({ type }) => type), ["join"]);
  });

  test("of the page are used alone", async (t) => {
    const iceServers = [{ urls: "stun:127.0.0.9" }];
    const options = { iceServers, rtcConfiguration: { iceTransportPolicy: "relay" } };
    const all = await join(t, { peers: [entry("far")], ttl: 10, options });
    const configuration = { iceServers, iceTransportPolicy: "relay" };
    assert.deepEqual(all.connections[0].configurations, [configuration]);
    await all.clock.pass(20_000);
    assert.equal(asks(all.sockets[0]), 0);
  });
});

test("data through the server", async (t) => {
  const { client, sockets, seen } = await join(t);
  client.relay({ n: 1 }, "far");
  assert.deepEqual(sockets[0].of("data"), [
    { type: "data", payload: { n: 1 }, to: "far", seq: 1 },
  ]);
  await sockets[0].say({ type: "data", from: "far", payload: 2, seq: 1 });
  assert.deepEqual(seen.at(-1), ["data", { from: "far", payload: 2 }]);
  await sockets[0].end(1006);
  for (let n = 1; n < 1000; n += 1) client.relay(n);
  assert.throws(() => client.relay("too much"), /too much waits/);
});
