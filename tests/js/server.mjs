// One `triocast serve` after the other, on the same port and the same file.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

const PYTHON = process.env.TRIOCAST_TEST_PYTHON || "python3";
const LISTENS = /Triocast listens on http:\/\/127\.0\.0\.1:(\d+)/;

/** Makes a server with a store of its own that ends, whatever happens, with the test `t`. */
export async function startServer(t, environment = {}) {
  const folder = await mkdtemp(join(tmpdir(), "triocast-"));
  const server = new Server(folder, environment);
  const kill = () => server.process?.kill("SIGKILL");
  process.on("exit", kill);
  t.after(async () => {
    await server.kill();
    process.off("exit", kill);
    await rm(folder, { recursive: true });
  });
  await server.start();
  return server;
}

class Server {
  process = null;
  #folder;
  #environment;
  #port = 0; // the first start takes any free one, the next ones the same

  constructor(folder, environment) {
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("TRIOCAST_"));
    this.#folder = folder;
    this.#environment = {
      ...Object.fromEntries(inherited),
      TRIOCAST_ENGINE: "sqlite:///events.db",
      ...environment,
    };
  }

  /** Returns when the server listens. */
  async start() {
    const child = spawn(
      PYTHON,
      ["-m", "triocast", "serve", "--host", "127.0.0.1", "--port", String(this.#port)],
      {
        cwd: this.#folder,
        env: this.#environment,
        stdio: ["ignore", "pipe", "pipe"],
      },
    );
    this.process = child;
    this.#port = await new Promise((resolve, reject) => {
      let out = "";
      let log = "";
      child.stderr.on("data", (bytes) => (log = (log + bytes).slice(-5000)));
      child.stdout.on("data", (bytes) => {
        out += bytes;
        const told = LISTENS.exec(out);
        if (told) resolve(Number(told[1]));
      });
      child.on("error", reject);
      child.on("exit", (code) => reject(new Error(`no server (exit code ${code}):\n${out}${log}`)));
    });
  }

  /** Ends the server, as a crash would if no other signal is given; returns when it is gone. */
  async kill(signal = "SIGKILL") {
    const child = this.process;
    this.process = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    await once(child, "exit");
  }

  /** Moves the store away, so that the next start makes a new one. The server must not run. */
  async putStoreAway() {
    const away = join(this.#folder, "away");
    await mkdir(away);
    for (const name of await readdir(this.#folder)) {
      if (name.startsWith("events.db")) await rename(join(this.#folder, name), join(away, name));
    }
  }

  url(target) {
    return `http://127.0.0.1:${this.#port}${target}`;
  }

  /** Publishes one event, or an array of them; returns the server's answer. */
  async publish(event) {
    const answer = await fetch(this.url("/realtime/broadcast"), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(event),
    });
    const body = await answer.text();
    if (!answer.ok) throw new Error(`not published: ${answer.status} ${body}`);
    return JSON.parse(body);
  }
}
