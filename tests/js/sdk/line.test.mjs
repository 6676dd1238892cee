// The line to the server: when it comes back, and what is said on it again.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Line, backoff, isFinal } from "../../../src/triocast/web/sdk/line.js";
import { joined, settle, world } from "./world.mjs";

/** Who has a line, and notes what it is told. */
class Owner {
  heard = [];
  statuses = [];
  ends = [];
  errors = [];
  forgot = 0;

  hear(message) {
    this.heard.push(message);
  }

  noteStatus(status) {
    this.statuses.push(status);
  }

  noteEnd(...end) {
    this.ends.push(end);
  }

  noteError(error) {
    this.errors.push(error);
  }

  forget() {
    this.forgot += 1;
  }
}

/** A line that has joined, unless it is told otherwise. */
async function start(t, { token = "t", joins = true } = {}) {
  const { sockets, clock, events } = world(t);
  const owner = new Owner();
  const introduction = { room: "room" };
  const line = new Line(owner, { url: "ws://here/", token, introduction });
  await settle();
  if (joins) {
    await sockets[0].open();
    await sockets[0].say(joined());
  }
  return { line, owner, sockets, clock, events };
}

const seqs = (socket) => socket.of("data").map(({ seq }) => seq);
const data = (payload) => ({ type: "data", payload });

test("delays double up to a bound, and half of each is chance", () => {
  const delays = (chance) => [0, 1, 2, 3, 50].map((attempt) => backoff(attempt, () => chance));
  assert.deepEqual(delays(0), [250, 500, 1000, 2000, 10_000]);
  assert.deepEqual(delays(1), [500, 1000, 2000, 4000, 20_000]);
});

const FINAL = [1000, 1002, 1003, 1007, 1008, 1009, 4500, 4501, 4502, 4503, 4999];
const PASSING = [1001, 1005, 1006, 1011, 1012, 1013, 4000, 4001, 4002, 4499, 5000];

for (const code of [...FINAL, ...PASSING]) {
  test(`after the close code ${code}`, async (t) => {
    const { line, owner, sockets, clock } = await start(t);
    assert.equal(isFinal(code), FINAL.includes(code));
    await sockets[0].end(code, "why");
    assert.equal(line.status, isFinal(code) ? "closed" : "away");
    assert.deepEqual(owner.ends, isFinal(code) ? [[code, "why"]] : []);
    await clock.pass(600_000);
    assert.equal(sockets.length > 1, !isFinal(code));
  });
}

test("what the server may have missed is sent again after a break, before what is new", async (t) => {
  const { line, sockets, clock } = await start(t);
  for (const payload of ["a", "b", "c"]) line.send(data(payload));
  await sockets[0].say({ type: "pong" }, { type: "peer-state", seq: 1 });
  await sockets[0].end(1006);
  line.send(data("d"));
  await clock.pass(250);
  await sockets[1].open();
  const [join] = sockets[1].sent;
  assert.deepEqual(join.resume, { token: "r1", lastSeq: 1 });
  assert.deepEqual([join.type, join.room, join.token], ["join", "room", "t"]);
  line.send(data("e"));
  assert.deepEqual(seqs(sockets[1]), []);
  await sockets[1].say(joined({ resumed: true, received: 2 }));
  line.send(data("f"));
  const again = sockets[1].of("data").map(({ seq, payload }) => [seq, payload]);
  assert.deepEqual(again, [[3, "c"], [4, "d"], [5, "e"], [6, "f"]]); // prettier-ignore
});

test("what a ping acknowledges is not sent again", async (t) => {
  const { line, sockets, clock } = await start(t);
  for (const payload of ["a", "b", "c"]) line.send(data(payload));
  await sockets[0].say({ type: "peer-state", seq: 1 }, { type: "ping", t: 7, received: 2 });
  assert.deepEqual(sockets[0].of("pong"), [{ type: "pong", t: 7, seq: 1 }]);
  await sockets[0].end(1006);
  await clock.pass(250);
  await sockets[1].open();
  await sockets[1].say(joined({ resumed: true, received: 0 }));
  assert.deepEqual(seqs(sockets[1]), [3]);
});

test("as many messages wait as may, until the server has them", async (t) => {
  const { line, sockets } = await start(t);
  for (let n = 1; n < 1000; n += 1) line.send(data(n));
  assert.equal(line.isFull, false);
  line.send(data(1000));
  assert.equal(line.isFull, true);
  await sockets[0].say({ type: "ping", t: 1, received: 1 });
  assert.equal(line.isFull, false);
});

test("a numbered message is heard once", async (t) => {
  const { owner, sockets, clock } = await start(t);
  await sockets[0].say({ type: "x", seq: 1 }, { type: "y", seq: 2 }, { type: "x", seq: 1 });
  await sockets[0].end(1006);
  await clock.pass(250);
  await sockets[1].open();
  const back = joined({ resumed: true, seq: 1 });
  await sockets[1].say(back, { type: "y", seq: 2 }, { type: "z", seq: 3 });
  const heard = owner.heard.map(({ type }) => type).filter((type) => type !== "joined");
  assert.deepEqual(heard, ["x", "y", "z"]);
});

test("a room begins at the number that the server names", async (t) => {
  const { owner, sockets } = await start(t, { joins: false });
  await sockets[0].open();
  await sockets[0].say(joined({ seq: 3 }), { type: "before", seq: 3 }, { type: "after", seq: 4 });
  assert.deepEqual(owner.heard.map(({ type }) => type), ["joined", "after"]);
});

test("after a gap it goes on from the number that the server names", async (t) => {
  const { owner, sockets, clock } = await start(t);
  await sockets[0].say({ type: "x", seq: 1 });
  await sockets[0].end(1006);
  await clock.pass(250);
  await sockets[1].open();
  await sockets[1].say(joined({ resumed: true, gap: true, seq: 9 }), { type: "old", seq: 9 });
  await sockets[1].say({ type: "new", seq: 10 });
  assert.deepEqual(owner.heard.map(({ type }) => type).slice(-2), ["joined", "new"]);
});

test("who is forgotten joins anew on the same line, and repeats nothing", async (t) => {
  const { line, owner, sockets, clock } = await start(t);
  line.send(data("lost"));
  await sockets[0].say({ type: "x", seq: 5 });
  await sockets[0].end(1012);
  await clock.pass(250);
  await sockets[1].open();
  await sockets[1].say({ type: "error", code: "resume-failed", re: "join", temporary: false });
  assert.equal(owner.forgot, 1);
  assert.deepEqual(sockets[1].of("join").map(({ resume }) => resume?.token), ["r1", undefined]);
  await sockets[1].say(joined({ peer: "me again", seq: 0 }), { type: "fresh", seq: 1 });
  assert.equal(owner.heard.at(-1).type, "fresh");
  line.send(data("new"));
  assert.deepEqual(sockets[1].of("data"), [{ type: "data", payload: "new", seq: 1 }]);
});

test("delays grow with each attempt, and begin anew after a join", async (t) => {
  const { sockets, clock } = await start(t);
  for (const delay of [250, 500, 1000, 2000]) {
    await sockets.at(-1).end(1006);
    const before = sockets.length;
    await clock.pass(delay - 1);
    assert.equal(sockets.length, before);
    await clock.pass(1);
    assert.equal(sockets.length, before + 1);
  }
  await sockets.at(-1).open();
  await sockets.at(-1).say(joined());
  await sockets.at(-1).end(1006);
  const before = sockets.length;
  await clock.pass(250);
  assert.equal(sockets.length, before + 1);
});

test("a join that is refused for now is tried again after retryAfter", async (t) => {
  const { line, sockets, clock } = await start(t, { joins: false });
  await sockets[0].open();
  const full = { type: "error", code: "room-full", re: "join", temporary: true };
  await sockets[0].say({ ...full, retryAfter: 7 });
  assert.equal(line.status, "away");
  assert.notEqual(sockets[0].closedWith, null);
  await clock.pass(6_999);
  assert.equal(sockets.length, 1);
  await clock.pass(1);
  await sockets[1].open();
  await sockets[1].say(full);
  await clock.pass(500);
  assert.equal(sockets.length, 3);
});

test("a join that is refused for good is not", async (t) => {
  const { line, owner, sockets, clock } = await start(t, { joins: false });
  await sockets[0].open();
  await sockets[0].say({ type: "error", code: "forbidden", re: "join", temporary: false });
  assert.deepEqual([line.status, owner.ends], ["closed", [[null, "forbidden"]]]);
  await clock.pass(600_000);
  assert.equal(sockets.length, 1);
});

for (const temporary of [true, false]) {
  test(`who closes it when a join is refused is not brought back: ${temporary}`, async (t) => {
    const { line, owner, sockets, clock } = await start(t, { joins: false });
    owner.hear = ({ type }) => type === "error" && line.close();
    await sockets[0].open();
    await sockets[0].say({ type: "error", code: "room-full", re: "join", temporary });
    await clock.pass(600_000);
    assert.deepEqual([line.status, sockets.length], ["closed", 1]);
    assert.deepEqual(owner.ends, [[1000, "left"]]);
  });
}

test("a line that is silent for longer than pings take is given up", async (t) => {
  const { line, owner, sockets, clock } = await start(t);
  await clock.pass(29_999);
  await sockets[0].say({ type: "ping", t: 1 });
  await clock.pass(29_999);
  assert.equal(line.status, "joined");
  await clock.pass(1);
  assert.equal(line.status, "away");
  assert.notEqual(sockets[0].closedWith, null);
  await sockets[0].say({ type: "late" });
  assert.equal(owner.heard.at(-1).type, "joined");
  await clock.pass(250);
  assert.equal(sockets.length, 2);
});

test("a handshake that takes too long is given up", async (t) => {
  const { sockets, clock } = await start(t, { joins: false });
  await clock.pass(14_999);
  assert.equal(sockets[0].closedWith, null);
  await clock.pass(251);
  assert.equal(sockets.length, 2);
});

test("a token is fetched for each attempt, also after it could not be", async (t) => {
  const answers = [() => "first", () => Promise.reject(new Error("no")), () => "third"];
  const { owner, sockets, clock } = await start(t, { token: async () => answers.shift()() });
  await sockets[0].end(1006);
  await clock.pass(250);
  assert.deepEqual([owner.errors.map(String), sockets.length], [["Error: no"], 1]);
  await clock.pass(500);
  await sockets[1].open();
  assert.deepEqual(sockets.map(({ sent }) => sent[0].token), ["first", "third"]);
});

for (const answer of ["token", new Error("no")]) {
  test(`what is closed while a token is fetched stays so: ${answer}`, async (t) => {
    let tell;
    const asked = new Promise((resolve) => (tell = resolve));
    const token = async () => {
      await asked;
      if (answer instanceof Error) throw answer;
      return answer;
    };
    const { line, sockets, clock } = await start(t, { token, joins: false });
    line.close();
    tell();
    await clock.pass(600_000);
    assert.deepEqual([line.status, sockets.length], ["closed", 0]);
  });
}

/** A line with a function for its tokens, which are t1, t2 and so on. */
async function startWithTokens(t, fetch = async (number) => `t${number}`) {
  let number = 0;
  const all = await start(t, { token: () => fetch((number += 1)), joins: false });
  await all.sockets[0].open();
  await all.sockets[0].say(joined({ tokenTtl: 100 }));
  return all;
}

test("before a token ends it comes back with a new one, and loses nothing", async (t) => {
  const { line, owner, sockets, clock } = await startWithTokens(t);
  line.send(data(1));
  const ping = () => sockets[0].say({ type: "ping", t: 1 });
  for (let i = 0; i < 3; i += 1) await clock.pass(20_000).then(ping);
  await clock.pass(19_000);
  assert.equal(sockets.length, 1);
  await clock.pass(1_000);
  assert.deepEqual([sockets.length, sockets[0].readyState], [2, WebSocket.CLOSING]);
  line.send(data(2));
  await sockets[1].open();
  const [join] = sockets[1].of("join");
  assert.deepEqual([join.token, join.resume], ["t2", { token: "r1", lastSeq: 0 }]);
  await sockets[1].say(joined({ resumed: true, received: 1, tokenTtl: 1_000 }));
  assert.deepEqual(seqs(sockets[1]), [2]);
  assert.deepEqual([line.status, owner.forgot, owner.ends], ["joined", 0, []]);
  await clock.pass(25_000);
  assert.equal(sockets.length, 2);
});

test("a new token that cannot be had is asked for again, on the same line", async (t) => {
  const { owner, sockets, clock } = await startWithTokens(t, async (number) => {
    if (number === 2) throw new Error("not now");
    return `t${number}`;
  });
  for (let i = 0; i < 4; i += 1) {
    await clock.pass(20_000);
    await sockets[0].say({ type: "ping", t: 1 });
  }
  assert.deepEqual([owner.errors.map(String), sockets.length], [["Error: not now"], 1]);
  await clock.pass(5_000);
  await sockets[1].open();
  assert.equal(sockets[1].of("join")[0].token, "t3");
});

test("without a new token the line stays until the old one ends", async (t) => {
  const { line, sockets, clock } = await startWithTokens(t, async (number) => {
    return number === 1 ? "t1" : undefined;
  });
  for (let i = 0; i < 6; i += 1) {
    await clock.pass(20_000);
    await sockets[0].say({ type: "ping", t: 1 });
  }
  assert.deepEqual([line.status, sockets.length], ["joined", 1]);
});

test("a token that has ended all the same makes it somebody new, with the next", async (t) => {
  const { line, owner, sockets, clock } = await startWithTokens(t);
  await sockets[0].end(4500);
  assert.deepEqual([line.status, owner.ends], ["away", []]);
  await clock.pass(500);
  await sockets[1].open();
  assert.equal(sockets[1].of("join")[0].token, "t2");
});

test("a token that is a text, or does not end, is not renewed", async (t) => {
  const { sockets, clock } = await start(t, { joins: false });
  await sockets[0].open();
  await sockets[0].say(joined({ tokenTtl: 1 }));
  await clock.pass(20_000);
  assert.equal(sockets.length, 1);
});

test("when the network is back it does not wait", async (t) => {
  const { line, sockets, events } = await start(t);
  await sockets[0].end(1006);
  events.dispatchEvent(new Event("online"));
  await settle();
  assert.equal(sockets.length, 2);
  line.close();
  events.dispatchEvent(new Event("online"));
  await settle();
  assert.equal(sockets.length, 2);
});

test("who leaves says so", async (t) => {
  const { line, owner, sockets, clock } = await start(t);
  line.close("enough");
  assert.deepEqual(sockets[0].sent.at(-1), { type: "leave", reason: "enough" });
  assert.equal(sockets[0].closedWith, 1000);
  assert.deepEqual(owner.ends, [[1000, "left"]]);
  for (let n = 0; n < 1000; n += 1) line.send(data("too late"));
  assert.equal(line.isFull, false);
  await clock.pass(600_000);
  assert.equal(sockets.length, 1);
});
