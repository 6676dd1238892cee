// What a browser has and Node lacks, played by hand: time, WebSockets and RTCPeerConnections. The
// connections keep to the states of the standard, and refuse what browsers refuse.

import { webcrypto } from "node:crypto";

/** Time that passes when it is told to. */
class Clock {
  #now = 0;
  #timers = new Map();
  #last = 0;

  set(callback, delay) {
    this.#last += 1;
    this.#timers.set(this.#last, { at: this.#now + delay, callback });
    return this.#last;
  }

  clear(timer) {
    this.#timers.delete(timer);
  }

  /** Let milliseconds pass; returns when all that follows from it has been done. */
  async pass(milliseconds) {
    const end = this.#now + milliseconds;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end);
      if (!due.length) break;
      const [timer, { at, callback }] = due.reduce((a, b) => (b[1].at < a[1].at ? b : a));
      this.#timers.delete(timer);
      this.#now = at;
      callback();
      await settle();
    }
    this.#now = end;
    await settle();
  }
}

class FakeWebSocket {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSING = 2;
  static CLOSED = 3;

  readyState = FakeWebSocket.CONNECTING;
  sent = [];
  closedWith = null;

  constructor(url, protocol) {
    Object.assign(this, { url: String(url), protocol });
    current.sockets.push(this);
  }

  send(text) {
    if (this.readyState === FakeWebSocket.CONNECTING) throw new Error("InvalidStateError");
    if (this.readyState === FakeWebSocket.OPEN) this.sent.push(JSON.parse(text));
  }

  close(code = 1005) {
    this.closedWith = code;
    this.readyState = FakeWebSocket.CLOSING;
  }

  // The server's side.

  async open() {
    this.readyState = FakeWebSocket.OPEN;
    this.onopen?.({});
    await settle();
  }

  async say(...messages) {
    for (const message of messages) this.onmessage?.({ data: JSON.stringify(message) });
    await settle();
  }

  async end(code, reason = "") {
    this.readyState = FakeWebSocket.CLOSED;
    this.onclose?.({ code, reason });
    await settle();
  }

  /** What was sent of these types. */
  of(...types) {
    return this.sent.filter(({ type }) => types.includes(type));
  }
}

class FakeChannel extends EventTarget {
  readyState = "connecting";

  constructor(label) {
    super();
    this.label = label;
  }

  become(state) {
    this.readyState = state === "close" ? "closed" : state;
    this.dispatchEvent(new Event(state));
  }
}

export class FakePeerConnection {
  signalingState = "stable";
  connectionState = "new";
  sctp = { state: "connecting" };
  localDescription = null;
  remoteDescription = null;
  rollbacks = 0;
  /** Whether an offer that comes is refused, whatever became of the own one. */
  refusesOffers = false;
  added = [];
  channels = [];
  configurations = [];
  #generation = 0;
  #restarts = true;

  constructor(configuration) {
    if (current.refuses) throw new Error("Cannot create so many");
    current.connections.push(this);
    this.name = `pc${current.connections.length}`;
    this.configurations.push(configuration);
  }

  restartIce() {
    this.#restarts = true;
  }

  async setLocalDescription() {
    this.#check(); // what is closed after that may end all the same
    await null;
    const isAnswer = this.signalingState === "have-remote-offer";
    if (!isAnswer && this.#restarts) this.#generation += 1;
    this.#restarts = false;
    this.localDescription = describe(isAnswer ? "answer" : "offer", this.name, this.#generation);
    this.signalingState = isAnswer ? "stable" : "have-local-offer";
  }

  async setRemoteDescription(description) {
    this.#check();
    await null;
    const isOffer = description.type === "offer";
    if (!isOffer && this.signalingState !== "have-local-offer") throw new Error("wrong state");
    if (isOffer && this.signalingState === "have-local-offer") this.rollbacks += 1;
    if (isOffer && this.refusesOffers) {
      this.signalingState = "stable";
      throw new Error("InvalidAccessError");
    }
    this.remoteDescription = description;
    this.signalingState = isOffer ? "have-remote-offer" : "stable";
  }

  async addIceCandidate(candidate) {
    if (!this.remoteDescription) throw new Error("no remote description");
    this.added.push(candidate?.candidate);
  }

  createDataChannel(label) {
    const channel = new FakeChannel(label);
    this.channels.push(channel);
    return channel;
  }

  setConfiguration(configuration) {
    this.configurations.push(configuration);
  }

  close() {
    this.signalingState = this.connectionState = "closed";
  }

  // What the network does.

  async become(state) {
    this.connectionState = state;
    this.onconnectionstatechange?.();
    await settle();
  }

  #check() {
    if (this.signalingState === "closed") throw new Error("InvalidStateError");
  }
}

/** A description with the certificate of `name` and the ICE credentials of a generation. */
export function describe(type, name, generation = 1, candidates = true) {
  const lines = ["v=0", `a=fingerprint:sha-256 ${name}`, `a=ice-ufrag:${name}-${generation}`];
  if (candidates) lines.push("a=candidate:1 1 udp 1 127.0.0.1 9 typ host");
  return { type, sdp: lines.map((line) => `${line}\r\n`).join("") };
}

/** A candidate with the ICE credentials of a generation. */
export function candidate(number, name = "far", generation = 1) {
  return { candidate: `candidate:${number}`, usernameFragment: `${name}-${generation}` };
}

/** The server's `joined`. */
export function joined({ peer = "me", peers = [], ttl = null, tokenTtl = null, ...resume } = {}) {
  return {
    type: "joined",
    peer,
    role: null,
    peers,
    iceServers: [{ urls: "turn:127.0.0.1" }],
    iceServersTtl: ttl,
    tokenTtl,
    heartbeat: { interval: 20, timeout: 10 },
    resume: { token: "r1", resumed: false, gap: false, seq: 0, received: 0, ...resume },
  };
}

/** An entry of `peers`. */
export function entry(peer, given = {}) {
  const { initiator = true, instance = `of ${peer}`, ...others } = given;
  const pair = { session: 1, initiator, polite: !initiator, strict: false, state: "connected" };
  const can = { capabilities: ["trickle", "rollback", "ice-restart"] };
  return { peer, role: null, metadata: { name: peer, instance }, ...can, ...pair, ...others };
}

let current = null;

/** Make a world for the test `t`, without chance: every delay is the shortest. */
export function world(t) {
  const clock = new Clock();
  const events = new EventTarget();
  current = { sockets: [], connections: [], clock, events, refuses: false };
  class Detailed extends Event {
    constructor(type, { detail }) {
      super(type);
      this.detail = detail;
    }
  }
  const fakes = {
    WebSocket: FakeWebSocket,
    RTCPeerConnection: FakePeerConnection,
    CustomEvent: Detailed,
    crypto: webcrypto,
    setTimeout: (callback, delay) => clock.set(callback, delay),
    clearTimeout: (timer) => clock.clear(timer),
    addEventListener: events.addEventListener.bind(events),
    removeEventListener: events.removeEventListener.bind(events),
  };
  const before = new Map();
  for (const [name, value] of Object.entries(fakes)) {
    before.set(name, Object.getOwnPropertyDescriptor(globalThis, name));
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  }
  t.mock.method(Math, "random", () => 0);
  t.after(() => {
    for (const [name, descriptor] of before) {
      if (descriptor) Object.defineProperty(globalThis, name, descriptor);
      else delete globalThis[name];
    }
  });
  return current;
}

/** Returns when everything that can be done without time passing is done. */
export function settle() {
  return new Promise((resolve) => setImmediate(resolve));
}

/** The details of a target's events of these types, as they come: `[type, detail]`. */
export function listen(target, ...types) {
  const seen = [];
  for (const type of types) {
    target.addEventListener(type, ({ detail }) => seen.push([type, detail]));
  }
  return seen;
}
