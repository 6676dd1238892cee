/**
 * The line to the server: one WebSocket after the other, on which nothing is lost or comes twice.
 *
 * What is said about peers is numbered in both directions. Whoever comes back tells the server the
 * last number it has, is told the last one that came through, and says the rest again.
 */

export const SUBPROTOCOL = "triocast.webrtc.v1";

const STOPS = new Set([1000, 1002, 1003, 1007, 1008, 1009]);
const FIRST_DELAY = 500;
const LONGEST_DELAY = 20_000;
const HANDSHAKE_TIME = 15_000;
const MOST_UNSENT = 1_000;
const RENEW_AFTER = 0.8;
const RENEW_AGAIN = 5_000;
const LONGEST_TIMER = 2 ** 31 - 1;
const TOKEN_ENDED = 4500;

/** Whether a client that saw this close code must not come back. */
export function isFinal(code) {
    return STOPS.has(code) || (code >= 4500 && code <= 4999);
}

/** Milliseconds to wait before the attempt of this number, from 0: it doubles, half of it by lot. */
export function backoff(attempt, random = Math.random) {
    const longest = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** attempt);
    return longest / 2 + (random() * longest) / 2;
}

/**
 * Joins a room, and joins it again, until it is told not to. `options`:
 *
 * `url`; `token`, a text or a function that returns one or a promise of it, which is asked for a
 * new one each time and before one ends; `introduction`, what the `join` says besides.
 *
 * The owner is told by its methods:
 *
 * `hear(message)`       what the server says, each numbered message once; not what is of the
 *                       line only, as pings are. `joined` comes when all is said again.
 * `noteStatus(status)`  connecting, away or closed; joined is told by the message of this name
 * `forget()`            the server does not know this client any more: it is about to be somebody new
 * `noteEnd(code, reason)`      the line is closed and will not come back; the code is null if a
 *                       `join` was refused
 * `noteError(error)`    the function for the token failed; it is asked again later
 */
export class Line {
    status = "connecting";

    #owner;
    #options;
    #socket = null;
    #isJoined = false;
    #attempt = 0;
    #retryTimer = null;
    #silenceTimer = null;
    #renewTimer = null;
    #patience = HANDSHAKE_TIME;
    #token;
    #resumeToken = null;
    #lastSeq = 0;
    #nextSeq = 1;
    #unacknowledged = [];
    #comeBack = () => this.#hurry();

    constructor(owner, options) {
        this.#owner = owner;
        this.#options = options;
        globalThis.addEventListener?.("online", this.#comeBack);
        this.#connect();
    }

    /** Whether as much waits for the server as may. */
    get isFull() {
        return this.#unacknowledged.length >= MOST_UNSENT;
    }

    /** Send what is of no use after a break; it is dropped while there is no line. */
    write(message) {
        if (this.#socket?.readyState === WebSocket.OPEN) {
            this.#socket.send(JSON.stringify(message));
        }
    }

    /** Send what must arrive: it is kept until the server has it, and sent again after a break. */
    send(message) {
        if (this.status === "closed") return;
        const numbered = {...message, seq: this.#nextSeq};
        this.#nextSeq += 1;
        this.#unacknowledged.push(numbered);
        if (this.#isJoined) this.write(numbered);
    }

    /** Leave the room. */
    close(reason) {
        if (this.status === "closed") return;
        if (this.#isJoined) this.write({type: "leave", reason});
        this.#socket?.close(1000);
        this.#end(1000, "left");
    }

    // One WebSocket.

    async #connect() {
        this.#setStatus("connecting");
        let token = this.#options.token;
        try {
            if (this.#canRenew) token = await token();
        } catch (error) {
            this.#owner.noteError(error);
            this.#retry();
            return;
        }
        if (this.status !== "closed") this.#open(token);
    }

    #open(token) {
        const socket = new WebSocket(this.#options.url, SUBPROTOCOL);
        this.#socket = socket;
        this.#token = token;
        socket.onopen = () => this.#join();
        socket.onmessage = ({data}) => this.#hear(JSON.parse(data));
        socket.onclose = ({code, reason}) => this.#lose(code, reason);
        this.#patience = HANDSHAKE_TIME;
        this.#expectWord();
    }

    get #canRenew() {
        return typeof this.#options.token === "function";
    }

    /** Come back with a new token before the old one ends: nobody else is told of it. */
    async #renew() {
        let token;
        try {
            token = await this.#options.token();
        } catch (error) {
            this.#owner.noteError(error);
            this.#renewIn(RENEW_AGAIN);
            return;
        }
        // The line may have broken, and a new token been asked for.
        if (!this.#isJoined || !token) return;
        this.#drop()?.close();
        this.#setStatus("connecting");
        this.#open(token);
    }

    #renewIn(milliseconds) {
        clearTimeout(this.#renewTimer);
        const delay = Math.max(FIRST_DELAY, Math.min(milliseconds, LONGEST_TIMER));
        if (this.#isJoined) this.#renewTimer = setTimeout(() => this.#renew(), delay);
    }

    #join() {
        const resume = this.#resumeToken && {token: this.#resumeToken, lastSeq: this.#lastSeq};
        this.write({
            ...this.#options.introduction,
            type: "join",
            id: "join",
            version: 1,
            token: this.#token,
            resume: resume || undefined,
        });
    }

    #lose(code, reason) {
        this.#drop();
        // After a sleep it may be too late for a renewal. We are somebody new then.
        const mayReturn = code === TOKEN_ENDED && this.#canRenew;
        if (isFinal(code) && !mayReturn) this.#end(code, reason);
        else this.#retry();
    }

    #drop() {
        clearTimeout(this.#silenceTimer);
        clearTimeout(this.#renewTimer);
        this.#isJoined = false;
        const socket = this.#socket;
        this.#socket = null;
        if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
        return socket;
    }

    #retry(least = 0) {
        if (this.status === "closed") return; // by a listener, or while a token was fetched
        this.#setStatus("away");
        const delay = Math.max(least, backoff(this.#attempt));
        this.#attempt += 1;
        this.#retryTimer = setTimeout(() => this.#hurry(), delay);
    }

    #hurry() {
        if (this.status !== "away") return;
        clearTimeout(this.#retryTimer);
        this.#connect();
    }

    /** A line on which nothing is heard for longer than the server's pings take is dead. */
    #expectWord() {
        clearTimeout(this.#silenceTimer);
        this.#silenceTimer = setTimeout(() => {
            this.#drop()?.close();
            this.#retry();
        }, this.#patience);
    }

    #end(code, reason) {
        if (this.status === "closed") return;
        this.#drop();
        clearTimeout(this.#retryTimer);
        globalThis.removeEventListener?.("online", this.#comeBack);
        this.#setStatus("closed");
        this.#owner.noteEnd(code, reason);
    }

    #setStatus(status) {
        if (status === this.status) return;
        this.status = status;
        this.#owner.noteStatus(status);
    }

    // What the server says.

    #hear(message) {
        this.#expectWord();
        if (message.seq !== undefined) {
            if (message.seq <= this.#lastSeq) return;
            this.#lastSeq = message.seq;
        }
        if (message.type === "ping") {
            this.#acknowledge(message.received ?? 0);
            this.write({type: "pong", t: message.t, seq: this.#lastSeq});
        } else if (message.type === "error" && message.code === "resume-failed") {
            this.#beginAnew();
        } else {
            if (message.type === "joined") this.#enter(message);
            this.#owner.hear(message);
            if (message.type === "error" && message.re === "join") this.#beRefused(message);
        }
    }

    #enter({resume, heartbeat, tokenTtl = null}) {
        this.#attempt = 0;
        this.#patience = (heartbeat.interval + heartbeat.timeout) * 1000;
        this.#expectWord();
        this.#resumeToken = resume.token;
        if (!resume.resumed || resume.gap) this.#lastSeq = resume.seq;
        this.#acknowledge(resume.received);
        this.#isJoined = true;
        for (const unsure of this.#unacknowledged) this.write(unsure);
        this.status = "joined";
        if (tokenTtl !== null && this.#canRenew) this.#renewIn(tokenTtl * 1000 * RENEW_AFTER);
    }

    #acknowledge(received) {
        this.#unacknowledged = this.#unacknowledged.filter(({seq}) => seq > received);
    }

    #beginAnew() {
        this.#resumeToken = null;
        this.#lastSeq = 0;
        this.#nextSeq = 1;
        this.#unacknowledged = [];
        this.#owner.forget();
        this.#join();
    }

    #beRefused({temporary, retryAfter, code}) {
        this.#drop()?.close();
        if (temporary) this.#retry((retryAfter ?? 0) * 1000);
        else this.#end(null, code);
    }
}
