// The popular clients for Server-Sent Events, unchanged, behind one form. In Node and in browsers.

import { fetchEventSource } from "@microsoft/fetch-event-source";
import { EventSource as EventSource4 } from "eventsource-4";
import ReconnectingEventSource from "reconnecting-eventsource";

/** Each opens a stream, hands its messages on, and returns what closes it. */
export const CLIENTS = {
  "event-source-polyfill": (url, onmessage) => {
    const source = new globalThis.EventSourcePolyfill(url);
    source.onmessage = onmessage;
    return () => source.close();
  },
  "reconnecting-eventsource": (url, onmessage) => {
    const source = new ReconnectingEventSource(url, { eventSourceClass: globalThis.Native });
    source.addEventListener("message", onmessage); // by `onmessage` it would keep no cursor
    return () => source.close();
  },
  "@microsoft/fetch-event-source": (url, onmessage) => {
    const controller = new AbortController();
    const { signal } = controller;
    fetchEventSource(url, { signal, onmessage, openWhenHidden: true });
    return () => controller.abort();
  },
  "eventsource 4": (url, onmessage) => {
    const source = new EventSource4(url);
    source.addEventListener("message", onmessage);
    return () => source.close();
  },
  "the platform's EventSource": (url, onmessage) => {
    const source = new globalThis.Native(url);
    source.onmessage = onmessage;
    return () => source.close();
  },
};

/** What all clients have got on one server; events are told from messages by their `channel`. */
export class Listeners {
  greetings = {}; // the number of each client's streams that have begun
  data = {}; // of each client's events
  faults = [];
  #close = [];

  constructor(url) {
    for (const [name, open] of Object.entries(CLIENTS)) {
      this.greetings[name] = 0;
      this.data[name] = [];
      this.#close.push(open(url, (message) => this.#take(name, message)));
    }
  }

  close() {
    for (const close of this.#close) close();
  }

  /** Whether each has begun so many streams. */
  began(count) {
    return Object.values(this.greetings).every((greetings) => greetings >= count);
  }

  /** Whether each has got so many events. */
  got(count) {
    return Object.values(this.data).every((data) => data.length >= count);
  }

  #take(name, message) {
    try {
      const event = JSON.parse(message.data);
      if ("channel" in event) this.data[name].push(event.data);
      else if (event.type === "connected") this.greetings[name] += 1;
    } catch (error) {
      this.faults.push(`${name}: ${error}, ${JSON.stringify(message.data)}`);
    }
  }
}
