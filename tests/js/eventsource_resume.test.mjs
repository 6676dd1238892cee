// The `EventSource` of npm, unchanged, over a server's death: what it missed comes, once and in
// order, and what cannot come is told.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import * as current from "eventsource";
import * as three from "eventsource-3";

import { startServer } from "./server.mjs";

const LIMIT = { timeout: 60_000 };
const NEWS = "/realtime/events?channel=news";

// Before 5 it passes over an `id` without `data`, against the standard.
const CLIENTS = [
  { name: "eventsource 5", EventSource: current.EventSource },
  { name: "eventsource 3", EventSource: three.EventSource },
];

/** Whole numbers from `first` up to `last`. */
const numbers = (first, last) => Array.from({ length: last - first + 1 }, (_, n) => first + n);

const news = (n) => ({ channel: "news", type: "news", data: n });

/** What an EventSource has got, and waiting for more of it. */
class Listener {
  events = [];
  greetings = 0;
  #wake = () => {};

  constructor(t, source, ...names) {
    t.after(() => source.close());
    for (const name of names.length ? names : ["message"]) {
      source.addEventListener(name, (message) => {
        const event = { ...JSON.parse(message.data), cursor: message.lastEventId, name };
        if (event.type === "connected") this.greetings += 1;
        else if ("channel" in event || event.type === "gap") this.events.push(event);
        this.#wake();
      });
    }
  }

  get data() {
    return this.events.map((event) => event.data);
  }

  get cursors() {
    return this.events.map((event) => event.cursor);
  }

  /** Returns when the event with this id has come. */
  reach(id) {
    return this.#until(() => this.events.at(-1)?.cursor === id);
  }

  /** Returns when so many events have come. */
  count(wanted) {
    return this.#until(() => this.events.length >= wanted);
  }

  /** Returns when a stream has begun. */
  greeting() {
    return this.#until(() => this.greetings > 0);
  }

  async #until(reached) {
    while (!reached()) await new Promise((resolve) => (this.#wake = resolve));
  }
}

/** The `fetch` of an EventSource that can be kept away: its requests wait at the gate. */
class Gate {
  /** The header `Last-Event-ID` of each request. */
  cursors = [];
  /** Resolves when the first bytes of the first answer have been handed over. */
  begun;
  #begin;
  #waiting = Promise.resolve();
  #open = () => {};

  constructor() {
    this.begun = new Promise((resolve) => (this.#begin = resolve));
  }

  shut() {
    this.#waiting = new Promise((resolve) => (this.#open = resolve));
  }

  open() {
    this.#open();
  }

  fetch = async (url, init) => {
    await this.#waiting;
    this.cursors.push(new Headers(init.headers).get("Last-Event-ID"));
    const { body, headers, redirected, status, url: address } = await fetch(url, init);
    const begin = this.#begin;
    const through = new TransformStream({
      transform(chunk, controller) {
        controller.enqueue(chunk);
        begin();
      },
    });
    return { body: body.pipeThrough(through), headers, redirected, status, url: address };
  };
}

for (const { name, EventSource } of CLIENTS) {
  describe(name, { concurrency: true }, () => {
    test("it comes back by itself and has missed nothing", LIMIT, async (t) => {
      const server = await startServer(t);
      const listener = new Listener(t, new EventSource(server.url(NEWS)));
      const published = [];
      const publish = async () => {
        const { id, subscribers } = await server.publish(news(published.length));
        published.push(id);
        return subscribers;
      };
      while ((await publish()) === 0); // until it is there
      await listener.reach(published.at(-1));
      for (let kills = 0; kills < 2; kills += 1) {
        await server.kill();
        await server.start();
        for (let count = 0; count < 10; count += 1) await publish();
        await listener.reach(published.at(-1));
      }
      const [first] = listener.data; // What came before is not for a newcomer.
      assert.ok(first <= published.length - 21);
      assert.deepEqual(listener.data, numbers(first, published.length - 1));
      assert.deepEqual(listener.cursors, published.slice(first));
    });

    test("what was published while it was away", LIMIT, async (t) => {
      const server = await startServer(t);
      const gate = new Gate();
      const listener = new Listener(t, new EventSource(server.url(NEWS), { fetch: gate.fetch }));
      await gate.begun;
      await server.publish(news(1));
      await listener.count(1);
      gate.shut();
      // Acknowledged at the very end: some may be on their way, all are kept.
      await server.publish(numbers(2, 50).map(news));
      await server.kill();
      await server.start();
      for (const n of numbers(51, 60)) await server.publish(news(n));
      await server.publish({ channel: "other", data: "not for it" });
      gate.open();
      await listener.count(60);
      await server.publish(news("live"));
      await listener.count(61);
      assert.deepEqual(listener.data, [...numbers(1, 60), "live"]);
      assert.equal(gate.cursors.length, 2);
      assert.equal(gate.cursors[0], null);
      assert.ok(listener.cursors.includes(gate.cursors[1]));
    });

    test("a client that never had an event", LIMIT, async (t) => {
      const server = await startServer(t, { TRIOCAST_HEARTBEAT_SECONDS: "3600" });
      await server.publish(news("before its time"));
      const gate = new Gate();
      const source = new EventSource(server.url(NEWS), { fetch: gate.fetch });
      const listener = new Listener(t, source);
      await listener.greeting();
      gate.shut();
      await server.kill();
      await server.start();
      for (const n of numbers(1, 5)) await server.publish(news(n));
      gate.open();
      await listener.count(5);
      await server.publish(news("live"));
      await listener.count(6);
      assert.deepEqual(listener.data, [...numbers(1, 5), "live"]);
    });

    test("a new store is told as a gap, once", LIMIT, async (t) => {
      const server = await startServer(t);
      const gate = new Gate();
      const source = new EventSource(server.url(`${NEWS}&named=1`), { fetch: gate.fetch });
      const listener = new Listener(t, source, "news", "gap", "message");
      await gate.begun;
      const { id } = await server.publish(news(1));
      await listener.count(1);
      gate.shut();
      await server.kill();
      await server.putStoreAway();
      await server.start();
      await server.publish(news("in the gap"));
      gate.open();
      await listener.count(2);
      const { type, data, cursor } = listener.events[1];
      assert.deepEqual([type, data.reason, data.channels.includes("news")], ["gap", "epoch", true]);
      assert.deepEqual([data.from, data.to], [id, cursor]);

      // From there on it misses nothing again.
      gate.shut();
      await server.publish(news(2));
      await server.kill();
      await server.start();
      await server.publish(news(3));
      gate.open();
      await listener.count(4);
      assert.deepEqual(listener.events.map((event) => event.name), ["news", "gap", "news", "news"]);
      assert.deepEqual(listener.data.slice(2), [2, 3]);
    });
  });
}
