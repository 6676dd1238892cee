// Popular clients over a server's death: what they missed comes, once and in order, also if they
// had no event before. All of them at once, as they do not disturb each other.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { EventSource } from "eventsource";
import polyfill from "event-source-polyfill";

globalThis.EventSourcePolyfill = polyfill.EventSourcePolyfill;
globalThis.Native = EventSource; // Node 20 has none
// @microsoft/fetch-event-source is for browsers.
globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };

const { Listeners } = await import("./clients.mjs");
const { startServer } = await import("./server.mjs");

const LIMIT = { timeout: 120_000 };
const LOOK_MS = 20;

/** Whole numbers from 1 to `last`. */
const upTo = (last) => Array.from({ length: last }, (_, n) => n + 1);

async function until(reached) {
  while (!reached()) await sleep(LOOK_MS);
}

describe("popular clients", { concurrency: true }, () => {
  for (const signal of ["SIGKILL", "SIGTERM"]) {
    test(`they come back after ${signal} and have missed nothing`, LIMIT, async (t) => {
      let listeners;
      t.after(() => listeners?.close()); // before the server ends
      const server = await startServer(t, { TRIOCAST_DRAIN_SECONDS: "1" });
      const publish = async (first, last) => {
        for (let data = first; data <= last; data += 1) await server.publish({ channel: "a", data });
      };
      listeners = new Listeners(server.url("/realtime/events?channel=a"));
      await until(() => listeners.began(1));

      await server.kill(signal); // before their first event
      await server.start();
      await publish(1, 5);
      await until(() => listeners.got(5));

      const last = publish(6, 40).catch(() => {}); // some while it ends
      await until(() => listeners.got(10));
      await server.kill(signal);
      await last;
      await server.start();
      await server.publish({ channel: "a", data: "last" });
      await until(() => Object.values(listeners.data).every((data) => data.at(-1) === "last"));

      const kept = listeners.data["eventsource 4"];
      assert.deepEqual(kept, [...upTo(kept.length - 1), "last"]);
      for (const [name, got] of Object.entries(listeners.data)) assert.deepEqual(got, kept, name);
      assert.deepEqual(listeners.faults, []);
    });
  }
});
