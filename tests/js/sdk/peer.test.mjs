// One peer's connection: who offers when, what is kept for later, and when a new one is made.

import assert from "node:assert/strict";
import { describe as group, test } from "node:test";

import { Peer } from "../../../src/triocast/web/sdk/peer.js";
import { fingerprints, isAnother } from "../../../src/triocast/web/sdk/sdp.js";
import {
  FakePeerConnection,
  candidate,
  describe,
  entry,
  listen,
  settle,
  world,
} from "./world.mjs";

const TIME = 1000;

/** A peer that we have just been told of. */
async function meet(t, given = {}, { connections, clock } = world(t)) {
  const told = { sent: [], lost: [], isThere: true };
  const room = {
    connectTimeout: TIME,
    dataChannels: { data: {}, fixed: { negotiated: true, id: 0 } },
    configuration: () => ({ iceServers: [] }),
    lost: (peer) => told.lost.push(peer),
    reaches: () => told.isThere,
    send: (message) => told.sent.push(message),
  };
  const info = entry("far", given);
  const peer = new Peer(new EventTarget(), room, info);
  const seen = listen(peer, "state", "failed", "left", "error", "presence", "channel");
  peer._follow(info);
  await settle();
  const hear = async (type, fields = {}) => {
    peer._hear({ type, from: "far", session: 1, ...fields });
    await settle();
  };
  const offers = (name = "far", generation = 1, id = 1) =>
    hear("offer", { description: describe("offer", name, generation), offerId: id });
  const answers = (fields = {}) =>
    hear("answer", { description: describe("answer", "far"), offerId: 1, ...fields });
  return { peer, connections, clock, told, seen, hear, offers, answers };
}

const said = ({ sent }) => sent.map(({ type }) => type);
const ufrag = ({ description }) => /a=ice-ufrag:(\S+)/.exec(description.sdp)[1];

/** The initiator, connected. */
async function connect(t, given) {
  const all = await meet(t, given);
  if (given?.initiator === false) await all.offers();
  else await all.answers();
  await all.connections[0].become("connected");
  all.told.sent.length = all.seen.length = 0;
  return all;
}

test("a certificate is read from a description", () => {
  const sdp = "v=0\r\na=fingerprint:sha-256 AB:CD \r\na=setup:actpass\r\n";
  assert.deepEqual([...fingerprints({ type: "offer", sdp })], ["sha-256 ab:cd"]);
  assert.equal(fingerprints({ type: "offer", sdp: "v=0\r\nx=a=fingerprint:no\r\n" }).size, 0);
  assert.equal(fingerprints({ type: "rollback" }).size, 0);
  assert.equal(fingerprints(null).size, 0);
});

test("a long line of blanks in a description is read without going back", () => {
  // Going back at each blank, this would not end within the time of the whole run.
  const sdp = `v=0\r\na=fingerprint:x${" ".repeat(4_000_000)}x\r\n`;
  assert.equal(fingerprints({ sdp }).size, 1);
});

test("a certificate may be known by one hash of several", () => {
  const pc = { remoteDescription: { sdp: "v=0\r\na=fingerprint:sha-512 EF\r\n" } };
  const said = (...lines) => ({ sdp: ["v=0", ...lines, ""].join("\r\n") });
  const both = ["a=fingerprint:sha-256 AB", "a=fingerprint:sha-512 ef"];
  assert.equal(isAnother(pc, said(...both)), false);
  assert.equal(isAnother(pc, said(both[0])), true);
  assert.equal(isAnother(pc, said()), false);
  assert.equal(isAnother({ remoteDescription: null }, said(...both)), false);
});

group("who begins", () => {
  test("the initiator offers, and makes the channels", async (t) => {
    const { told, connections } = await meet(t, { session: 4 });
    const [offer, ...others] = told.sent;
    assert.deepEqual([offer.type, offer.to, offer.session, offer.offerId], ["offer", "far", 4, 1]);
    assert.equal(others.length, 0);
    assert.deepEqual(connections[0].channels.map(({ label }) => label), ["data", "fixed"]);
  });

  test("the other answers, and repeats the offer's number", async (t) => {
    const { told, connections, offers } = await meet(t, { initiator: false });
    connections[0].onnegotiationneeded();
    await settle();
    assert.deepEqual(told.sent, []);
    assert.deepEqual(connections[0].channels.map(({ label }) => label), ["fixed"]);
    await offers("far", 1, 7);
    assert.deepEqual([said(told), told.sent[0].offerId], [["answer"], 7]);
  });

  test("what belongs to an older session is passed over", async (t) => {
    const { told, connections, offers } = await meet(t, { session: 2, initiator: false });
    await offers();
    assert.deepEqual([told.sent, connections.length], [[], 1]);
  });

  test("an offer of a newer session makes a new connection", async (t) => {
    const { told, connections, hear } = await connect(t, { initiator: false });
    await hear("offer", { session: 2, description: describe("offer", "new"), offerId: 1 });
    assert.deepEqual([connections.length, connections[0].connectionState], [2, "closed"]);
    assert.deepEqual([said(told), told.sent[0].session], [["answer"], 2]);
  });
});

group("candidates that come early", () => {
  test("are kept until there is an offer", async (t) => {
    const { connections, hear, offers } = await meet(t, { initiator: false });
    await hear("candidate", { candidate: candidate(1) });
    await hear("end-of-candidates");
    assert.deepEqual(connections[0].added, []);
    await offers();
    assert.deepEqual(connections[0].added, ["candidate:1", undefined]);
    await hear("candidate", { candidate: candidate(2) });
    await offers("far", 1, 2);
    assert.deepEqual(connections[0].added.slice(2), ["candidate:2"]);
  });

  test("are kept until there is an answer", async (t) => {
    const { connections, hear, answers } = await meet(t);
    await hear("candidate", { candidate: candidate(1) });
    await answers();
    assert.deepEqual(connections[0].added, ["candidate:1"]);
  });

  test("of a restart wait for its offer", async (t) => {
    const { connections, hear, offers } = await connect(t, { initiator: false });
    await hear("candidate", { candidate: candidate(1, "far", 2) });
    assert.deepEqual(connections[0].added, []);
    await offers("far", 2, 2);
    assert.deepEqual(connections[0].added, ["candidate:1"]);
  });

  test("of the next session wait for that, and those of the last are dropped", async (t) => {
    const { connections, hear } = await meet(t, { initiator: false });
    await hear("candidate", { candidate: candidate(1) });
    await hear("end-of-candidates");
    await hear("candidate", { session: 2, candidate: candidate(2, "new") });
    await hear("offer", { session: 2, description: describe("offer", "new"), offerId: 1 });
    assert.deepEqual(connections.map(({ added }) => added), [[], ["candidate:2"]]);
  });

  test("of the next session are not the present connection's", async (t) => {
    const { connections, hear } = await connect(t, { initiator: false });
    await hear("end-of-candidates", { session: 2 });
    await hear("offer", { session: 2, description: describe("offer", "new"), offerId: 1 });
    assert.deepEqual(connections.map(({ added }) => added), [[], [undefined]]);
  });

  test("are not kept without bound", async (t) => {
    const { connections, hear, offers } = await meet(t, { initiator: false });
    for (let n = 1; n <= 300; n += 1) await hear("candidate", { candidate: candidate(n) });
    await offers();
    assert.equal(connections[0].added.length, 256);
    assert.equal(connections[0].added[0], "candidate:45");
  });
});

group("offers that meet", () => {
  const polite = { initiator: true, polite: true };

  test("before the first candidate make a new connection, and nothing is rolled back", async (t) => {
    const { told, connections, offers } = await meet(t, polite);
    await offers();
    assert.deepEqual(said(told), ["offer", "answer"]);
    assert.deepEqual(connections.map(({ rollbacks }) => rollbacks), [0, 0]);
    assert.deepEqual(connections.map(({ signalingState }) => signalingState), ["closed", "stable"]);
  });

  test("later are rolled back by the polite side, on the same connection", async (t) => {
    const { told, connections, offers } = await connect(t, polite);
    connections[0].onnegotiationneeded();
    await settle();
    await offers("far", 1, 2);
    assert.deepEqual(said(told), ["offer", "answer"]);
    assert.deepEqual(connections.map(({ rollbacks }) => rollbacks), [1]);
  });

  test("are ignored by the side that is not polite", async (t) => {
    const { told, connections, offers, answers } = await connect(t, { polite: false });
    connections[0].onnegotiationneeded();
    await settle();
    await offers("far", 1, 2);
    assert.deepEqual(said(told), ["offer"]);
    await answers({ offerId: 2 });
    assert.equal(connections[0].signalingState, "stable");
  });
});

group("an offer that the browser refuses", () => {
  /** Two offers meet, and the browser cannot take the other's in the place of its own. */
  async function collide(t, given) {
    const all = await connect(t, { polite: true, ...given });
    all.connections[0].refusesOffers = true;
    all.connections[0].onnegotiationneeded();
    await settle();
    await all.offers("far", 2, 2);
    return all;
  }

  test("after its own was rolled back has the initiator begin anew", async (t) => {
    const { told, connections } = await collide(t, { initiator: true });
    assert.deepEqual([connections.length, connections[0].connectionState], [2, "closed"]);
    const offers = told.sent.map(({ type, session }) => [type, session]);
    assert.deepEqual(offers, [["offer", 1], ["offer", 2]]);
  });

  test("after its own was rolled back has the other ask for that", async (t) => {
    const { told, connections, offers, hear } = await collide(t, { initiator: false });
    assert.deepEqual([connections.length, connections[0].connectionState], [2, "closed"]);
    assert.deepEqual(said(told), ["offer", "renegotiate"]);
    assert.equal(told.sent[1].reason, "gap"); // also a side that has an offer out heeds it
    connections[1].onnegotiationneeded(); // it adds tracks, but must not offer first
    await settle();
    await offers("far", 3, 3);
    const answer = told.sent[2];
    assert.deepEqual([told.sent.length, answer.type], [3, "answer"]);
    assert.deepEqual([...fingerprints(answer.description)], ["sha-256 pc2"]);
    await hear("offer", { session: 2, description: describe("offer", "fresh"), offerId: 4 });
    assert.deepEqual([said(told).at(-1), told.sent.at(-1).session], ["answer", 2]);
  });

  test("with none of its own out is told, and the connection stays", async (t) => {
    const { told, seen, connections, offers } = await connect(t, { initiator: false });
    connections[0].refusesOffers = true;
    await offers("far", 2, 2);
    assert.deepEqual([said(told), connections.length], [[], 1]);
    assert.deepEqual(seen.map(([type]) => type), ["error"]);
  });
});

group("another certificate", () => {
  test("in an offer is another peer's, and gets a new connection", async (t) => {
    const { told, connections, offers } = await connect(t, { initiator: false });
    await offers("stranger", 1, 2);
    assert.deepEqual([connections.length, connections[0].connectionState], [2, "closed"]);
    assert.deepEqual(said(told), ["answer"]);
    assert.ok(fingerprints(connections[1].remoteDescription).has("sha-256 stranger"));
  });

  test("in an answer makes the initiator begin the next session", async (t) => {
    const { told, connections, answers } = await connect(t);
    connections[0].onnegotiationneeded();
    await settle();
    await answers({ description: describe("answer", "stranger"), offerId: 2 });
    assert.equal(connections.length, 2);
    assert.deepEqual(told.sent.map(({ type, session }) => [type, session]), [
      ["offer", 1],
      ["offer", 2],
    ]);
  });
});

group("answers", () => {
  test("to another offer than the last are ignored", async (t) => {
    const { connections, answers, seen } = await meet(t);
    await answers({ offerId: 9 });
    assert.equal(connections[0].signalingState, "have-local-offer");
    await answers();
    assert.equal(connections[0].signalingState, "stable");
    await answers();
    assert.equal(connections[0].signalingState, "stable");
    assert.equal(seen.filter(([type]) => type === "error").length, 0);
  });
});

group("changes", () => {
  test("are offered by either side of a pair that can roll back", async (t) => {
    const { told, connections } = await connect(t, { initiator: false });
    connections[0].onnegotiationneeded();
    await settle();
    assert.deepEqual(said(told), ["offer"]);
  });

  test("are asked for by the answering side of a strict pair", async (t) => {
    const { told, connections } = await connect(t, { initiator: false, strict: true });
    connections[0].onnegotiationneeded();
    await settle();
    assert.deepEqual(told.sent.map(({ type, iceRestart }) => [type, iceRestart]), [
      ["renegotiate", false],
    ]);
  });

  test("that the other asks for are offered, but not over an open offer", async (t) => {
    const { told, hear } = await connect(t);
    await hear("renegotiate", { iceRestart: false });
    await hear("renegotiate", { iceRestart: false });
    assert.deepEqual(said(told), ["offer"]);
    await hear("renegotiate", { iceRestart: true, reason: "gap" });
    assert.deepEqual(told.sent.map(({ offerId }) => offerId), [2, 3]);
    assert.notEqual(ufrag(told.sent[0]), ufrag(told.sent[1]));
  });
});

group("what the server could not keep", () => {
  for (const code of ["queue-full", "expired"]) {
    test(`${code}: the pair is mended when the peer is back`, async (t) => {
      const { peer, told } = await connect(t);
      peer._suspend(true);
      peer._noteError({ code, message: "it is away" });
      await settle();
      assert.deepEqual(told.sent, []);
      peer._suspend(false);
      await settle();
      assert.deepEqual(said(told), ["renegotiate", "offer"]);
      assert.deepEqual([told.sent[0].iceRestart, told.sent[0].reason], [true, "gap"]);
      assert.equal(ufrag(told.sent[1]), "pc1-2");
      peer._suspend(true);
      peer._suspend(false);
      await settle();
      assert.equal(told.sent.length, 2);
    });

    test(`${code}: at once if it is back already; who did not offer asks only`, async (t) => {
      const { peer, told, seen } = await connect(t, { initiator: false });
      peer._noteError({ code, message: "it was away" });
      await settle();
      assert.deepEqual(said(told), ["renegotiate"]);
      assert.equal(String(seen[0][1].error), `Error: ${code}: it was away`);
    });
  }

  test("an open connection is kept where the other cannot restart ICE", async (t) => {
    const { peer, told, connections } = await connect(t, { capabilities: ["trickle"] });
    peer._mend();
    await settle();
    assert.deepEqual(said(told), ["renegotiate", "offer"]);
    assert.deepEqual([connections.length, ufrag(told.sent[1])], [1, "pc1-1"]);
    await connections[0].become("disconnected");
    peer._mend();
    await settle();
    assert.deepEqual([connections.length, told.sent.at(-1).session], [2, 2]);
  });

  test("an own offer that is open is made anew, whoever began", async (t) => {
    const { peer, told, connections } = await connect(t, { initiator: false });
    connections[0].onnegotiationneeded();
    await settle();
    peer._mend();
    await settle();
    assert.deepEqual(said(told), ["offer", "renegotiate", "offer"]);
  });

  test("other errors mend nothing", async (t) => {
    const { peer, told, seen } = await connect(t);
    peer._noteError({ code: "stale-session", message: "no" });
    await settle();
    assert.deepEqual([told.sent, seen.length], [[], 1]);
  });
});

group("a connection that does not come about", () => {
  const cases = [
    ["no answer", {}, () => {}],
    ["no offer", { initiator: false }, () => {}],
    ["timeout", {}, ({ answers }) => answers()],
    [
      "no usable candidates of the peer",
      {},
      ({ answers }) => answers({ description: describe("answer", "far", 1, false) }),
    ],
    [
      "no usable candidates",
      {},
      ({ connections }) => {
        connections[0].localDescription = describe("offer", "pc1", 1, false);
      },
    ],
  ];
  for (const [reason, given, act] of cases) {
    test(`is told: ${reason}`, async (t) => {
      const all = await meet(t, given);
      all.connections[0].onicecandidateerror({ url: "stun:x", errorCode: 701, errorText: "no" });
      all.connections[0].onicecandidateerror({ url: "turn:y", errorCode: 401, errorText: "" });
      await act(all);
      await all.clock.pass(TIME - 1);
      assert.deepEqual(all.seen.splice(0), [["state", { state: "connecting" }]]);
      await all.clock.pass(1);
      const errors = ["701 no stun:x", "401 turn:y"];
      assert.deepEqual(all.seen, [
        ["state", { state: "failed" }],
        ["failed", { reason, errors }],
      ]);
    });
  }

  test("may come about later", async (t) => {
    const { peer, clock, connections, answers } = await meet(t);
    await answers();
    await clock.pass(TIME);
    assert.equal(peer.state, "failed");
    await connections[0].become("connected");
    assert.equal(peer.state, "connected");
  });

  test("is begun anew by restart(), where nothing was agreed", async (t) => {
    const { peer, told, connections } = await meet(t);
    peer.restart();
    await settle();
    assert.equal(connections.length, 2);
    assert.deepEqual(told.sent.map(({ session }) => session), [1, 2]);
  });
});

for (const given of [{ initiator: true }, { initiator: false }]) {
  const word = given.initiator ? "offer" : "answer";
  test(`an ${word} is not sent when its connection is replaced while it is made`, async (t) => {
    const { peer, told, connections, offers } = await connect(t, given);
    connections[0].setLocalDescription = async () => {
      peer._follow(entry("far", { session: 2, ...given }));
    };
    if (given.initiator) peer.restart();
    else await offers("far", 2, 2);
    await settle();
    assert.equal(connections.length, 2);
    assert.deepEqual(told.sent.map(({ session }) => session), given.initiator ? [2] : []);
  });
}

test("what was to be done with a connection is not done after it has been replaced", async (t) => {
  const { peer, told, connections } = await meet(t, { initiator: true, polite: true });
  peer._hear({ type: "offer", from: "far", session: 1, description: describe("offer", "far") });
  peer._follow(entry("far", { session: 2, polite: true }));
  await settle();
  assert.equal(connections.length, 2);
  assert.deepEqual(told.sent.map(({ type, session }) => [type, session]), [
    ["offer", 1],
    ["offer", 2],
  ]);
});

test("a channel that cannot be made is told, and the others are made", async (t) => {
  const all = world(t);
  t.mock.method(FakePeerConnection.prototype, "createDataChannel", () => {
    throw new Error("both bounds");
  }, { times: 1 });
  const { seen, told, connections } = await meet(t, {}, all);
  const errors = seen.filter(([type]) => type === "error").map(([, { error }]) => String(error));
  assert.deepEqual(errors, ["Error: both bounds"]);
  assert.deepEqual(connections[0].channels.map(({ label }) => label), ["fixed"]);
  assert.deepEqual(said(told), ["offer"]);
});

for (const initiator of [true, false]) {
  const who = initiator ? "the initiator" : "the other";
  test(`${who} tells that no connection can be made, and makes it when it can`, async (t) => {
    const all = world(t);
    all.refuses = true;
    const { peer, told, seen, hear, offers } = await meet(t, { initiator }, all);
    if (!initiator) await offers();
    await hear("candidate", { candidate: candidate(1) });
    assert.deepEqual([peer.state, await peer.path(), told.sent], ["failed", null, []]);
    const errors = ["Error: Cannot create so many"];
    const [failed, ...others] = seen.filter(([type]) => type === "failed");
    assert.deepEqual([failed[1], others], [{ reason: "no connection can be made", errors }, []]);
    peer._configure({ iceServers: [] });
    peer._revive();
    assert.equal(peer.state, "failed");
    all.refuses = false;
    peer.restart();
    await settle();
    assert.deepEqual(said(told), [initiator ? "offer" : "renegotiate"]);
    assert.equal(told.sent[0].reason, initiator ? undefined : "gap");
    if (initiator) await hear("answer", { session: 2, description: describe("answer", "far") });
    else await offers();
    await all.connections[0].become("connected");
    assert.equal(peer.state, "connected");
  });
}

group("a connection that fails", () => {
  test("is tried again once, with new candidates", async (t) => {
    const { peer, told, connections, seen, clock } = await connect(t);
    await connections[0].become("disconnected");
    await connections[0].become("failed");
    assert.deepEqual([said(told), ufrag(told.sent[0])], [["offer"], "pc1-2"]);
    await clock.pass(TIME);
    assert.equal(peer.state, "failed");
    assert.equal(seen.filter(([type]) => type === "failed").length, 1);
    await connections[0].become("failed");
    assert.deepEqual(said(told), ["offer"]);
  });

  test("is asked for by who did not begin", async (t) => {
    const { told, connections } = await connect(t, { initiator: false });
    await connections[0].become("failed");
    assert.deepEqual(told.sent.map(({ type, iceRestart }) => [type, iceRestart]), [
      ["renegotiate", true],
    ]);
  });

  test("is made anew where the other cannot restart ICE", async (t) => {
    const { told, connections } = await connect(t, { capabilities: ["trickle"] });
    await connections[0].become("failed");
    assert.equal(connections.length, 2);
    assert.deepEqual(told.sent.map(({ type, session }) => [type, session]), [["offer", 2]]);
  });

  test("while the server does not know the peer is lost", async (t) => {
    const { peer, told, connections } = await connect(t);
    told.isThere = false;
    await connections[0].become("failed");
    assert.deepEqual([told.lost, told.sent], [[peer], []]);
  });
});

group("a connection on which no channel can open any more", () => {
  /** Nothing was found, and the browser has ended SCTP: a restart of ICE leaves it so. */
  async function fail(t, given) {
    const all = await connect(t, given);
    const [pc] = all.connections;
    pc.sctp.state = "closed";
    pc.connectionState = "failed";
    all.isNew = () => [all.connections.length, pc.connectionState];
    return all;
  }
  const begun = ({ sent }) => sent.map(({ type, session }) => [type, session]);

  test("is made anew by the initiator's restart()", async (t) => {
    const { peer, told, isNew } = await fail(t);
    peer.restart();
    await settle();
    assert.deepEqual([isNew(), begun(told)], [[2, "closed"], [["offer", 2]]]);
  });

  test("is made anew by the initiator when it is asked for new candidates", async (t) => {
    const { told, isNew, hear } = await fail(t);
    await hear("renegotiate", { iceRestart: true });
    assert.deepEqual([isNew(), begun(told)], [[2, "closed"], [["offer", 2]]]);
  });

  test("is made anew by the initiator when the other offers", async (t) => {
    const { told, isNew, offers } = await fail(t);
    await offers("far", 2, 2);
    assert.deepEqual([isNew(), begun(told)], [[2, "closed"], [["offer", 2]]]);
  });

  test("is made anew by the other, whose answer tells the initiator", async (t) => {
    const { peer, told, connections, isNew, offers } = await fail(t, { initiator: false });
    peer.restart();
    await settle();
    await offers("far", 2, 2);
    assert.deepEqual([isNew(), said(told)], [[2, "closed"], ["renegotiate", "answer"]]);
    assert.deepEqual([...fingerprints(told.sent[1].description)], ["sha-256 pc2"]);
    assert.equal(connections[1].signalingState, "stable");
  });

  test("is made anew by the other, if it had an offer out", async (t) => {
    const { peer, told, connections, isNew } = await fail(t, { initiator: false });
    connections[0].onnegotiationneeded();
    await settle();
    peer._mend();
    await settle();
    assert.deepEqual([isNew(), said(told)], [
      [2, "closed"],
      ["offer", "renegotiate", "renegotiate"],
    ]);
  });

  for (const initiator of [true, false]) {
    const who = initiator ? "the initiator" : "the other";
    test(`is not told as connected, but made anew by ${who}`, async (t) => {
      const { peer, told, seen, connections, isNew } = await fail(t, { initiator });
      await connections[0].become("connected"); // it failed while the answer was on its way
      assert.deepEqual(isNew(), [2, "closed"]);
      assert.deepEqual(begun(told), [initiator ? ["offer", 2] : ["renegotiate", 1]]);
      assert.equal(told.sent[0].reason, initiator ? undefined : "gap");
      assert.deepEqual([peer.state, seen], ["connecting", [["state", { state: "connecting" }]]]);
    });
  }

  for (const initiator of [true, false]) {
    const who = initiator ? "the initiator" : "the other";
    test(`is made anew once by ${who}, if a restart of ICE was under way`, async (t) => {
      const { peer, told, seen, connections } = await connect(t, { initiator });
      const [pc] = connections;
      await pc.become("disconnected");
      peer.restart();
      await settle();
      pc.sctp.state = "closed";
      await pc.become("failed");
      assert.deepEqual([connections.length, pc.connectionState], [2, "closed"]);
      assert.deepEqual(said(told), initiator ? ["offer", "offer"] : ["renegotiate", "renegotiate"]);
      connections[1].sctp.state = "closed";
      await connections[1].become("failed");
      assert.deepEqual([connections.length, peer.state], [2, "failed"]);
      assert.equal(seen.filter(([type]) => type === "failed").length, 1);
    });
  }

  test("is known by DTLS, before SCTP is told as closed", async (t) => {
    const { peer, connections } = await connect(t);
    await connections[0].become("disconnected");
    peer.restart();
    await settle();
    connections[0].sctp.transport = { state: "failed" };
    await connections[0].become("failed");
    assert.equal(connections.length, 2);
  });

  test("is not one whose channels may come back, if a restart fails", async (t) => {
    const { peer, told, connections } = await connect(t);
    await connections[0].become("disconnected");
    peer.restart();
    await settle();
    await connections[0].become("failed");
    assert.deepEqual([connections.length, peer.state, said(told)], [1, "failed", ["offer"]]);
  });

  test("is told as failed, if it was the first try", async (t) => {
    const { peer, told, connections, answers } = await meet(t);
    await answers();
    connections[0].sctp.state = "closed";
    await connections[0].become("failed");
    assert.deepEqual([connections.length, peer.state, said(told)], [1, "failed", ["offer"]]);
  });

  test("is kept while it is of use for other things, and nobody restarts it", async (t) => {
    const { told, connections, hear } = await connect(t);
    connections[0].sctp.state = "closed";
    await hear("renegotiate", { iceRestart: false });
    assert.deepEqual([connections.length, begun(told)], [1, [["offer", 1]]]);
  });
});

test("a connection without data channels is kept, and restarts ICE", async (t) => {
  const { peer, told, connections } = await connect(t);
  connections[0].sctp = null;
  await connections[0].become("failed");
  await connections[0].become("connected");
  assert.deepEqual([peer.state, connections.length], ["connected", 1]);
  assert.deepEqual([said(told), ufrag(told.sent[0])], [["offer"], "pc1-2"]);
});

test("channels are listed while they are open", async (t) => {
  const { peer, connections, seen } = await connect(t);
  const [channel] = connections[0].channels;
  assert.equal(peer.channels.size, 0);
  channel.become("open");
  assert.equal(peer.channels.get("data"), channel);
  assert.deepEqual(seen, [["channel", { channel }]]);
  channel.become("close");
  assert.equal(peer.channels.size, 0);
});

group("a peer that says too much", () => {
  test("makes no more connections than there is time for", async (t) => {
    const { connections, told, hear, clock } = await connect(t, { initiator: false });
    const begin = (session) =>
      hear("offer", { session, description: describe("offer", `far-${session}`), offerId: 1 });
    for (let session = 2; session < 202; session += 1) await begin(session);
    assert.ok(connections.length <= 30, `${connections.length} connections`);
    assert.ok(told.sent.length <= 30, `${told.sent.length} messages`);
    const before = connections.length;
    await clock.pass(5_000);
    assert.ok(connections.length > before && connections.length <= 60);
  });

  test("is answered when there is time, and asked for what was passed over", async (t) => {
    const { told, connections, hear, clock } = await connect(t);
    for (let n = 0; n < 100; n += 1) {
      await hear("renegotiate", { iceRestart: true, reason: "gap" });
    }
    assert.ok(said(told).length <= 30);
    await hear("candidate", { candidate: candidate(1) });
    assert.deepEqual(connections[0].added, []); // what it belongs to may still wait
    for (let n = 0; n < 5; n += 1) await clock.pass(5_000);
    assert.ok(told.sent.some(({ type, reason }) => type === "renegotiate" && reason === "gap"));
    told.sent.length = 0;
    await hear("renegotiate", { iceRestart: true, reason: "gap" });
    assert.deepEqual(said(told), ["offer"]);
  });

  test("is the cause of some errors, and not of ever more", async (t) => {
    const { connections, seen, hear, answers, clock } = await meet(t);
    connections[0].addIceCandidate = () => Promise.reject(new Error("x".repeat(60_000)));
    await answers();
    for (let n = 0; n < 100; n += 1) await hear("candidate", { candidate: candidate(n) });
    await clock.pass(TIME);
    const { errors } = seen.find(([type]) => type === "failed")[1];
    assert.ok(errors.length <= 32 && errors.every((error) => error.length <= 500));
  });

  test("is not heard after its end", async (t) => {
    const { peer, connections, hear, clock } = await connect(t, { initiator: false });
    for (let session = 2; session < 60; session += 1) {
      await hear("offer", { session, description: describe("offer", "far"), offerId: 1 });
    }
    peer._end("kicked");
    const before = connections.length;
    await clock.pass(10_000);
    assert.deepEqual([connections.length, peer.state], [before, "closed"]);
  });
});
