/**
 * WebRTC signaling for browsers: finds the peers of a room and keeps a connection to each.
 *
 *     const client = new SignalingClient("/realtime/webrtc/signaling", {room: "team"});
 *     client.addEventListener("channel", ({detail: {peer, channel}}) => …);
 *
 * Here is who is in the room; `line.js` has the line to the server, `peer.js` an RTCPeerConnection
 * and its negotiation. The connections outlive the line: they are not closed because the server
 * has gone. docs/reference/signaling.md is the specification of what is said.
 */

import {Line} from "./line.js";
import {Peer, emit} from "./peer.js";

export {SUBPROTOCOL, backoff, isFinal} from "./line.js";
export {Peer} from "./peer.js";
export {fingerprints} from "./sdp.js";

const CAPABILITIES = ["trickle", "rollback", "ice-restart"];
const ICE_RETRY = 10_000;
/** Browsers have some hundreds of connections, and who comes and goes must not take all of them. */
const MOST_ORPHANS = 64;
/** Close codes after which the others close their connections to us, and why ours are closed. */
const ENDS = {4500: "left", 4502: "kicked", 4503: "closed"};
const LONGEST_TIMER = 2 ** 31 - 1;

/**
 * A peer of a room. Options:
 *
 * `room`; `token`, a text or a function that returns one or a promise of it; `metadata`, an object
 * that others see; `dataChannels`, RTCDataChannelInit by label (one, `data`, if it is left out);
 * `iceServers` in the place of the server's; `rtcConfiguration`, anything else of RTCConfiguration;
 * `connectTimeout`, milliseconds that a peer has to connect; `relayData`, take data by the server.
 *
 * Events, besides those of its peers (see Peer):
 *
 * `status` {status}    connecting, joined, away (it comes back by itself) or closed
 * `joined` {resumed}
 * `peer` {peer}        somebody is there: from now on its other events come
 * `data` {from, payload}       relayed by the server
 * `error` {code, message, …}   what the server says, or {error}
 * `closed` {code, reason}      it will not come back by itself. Open connections stay, until
 *                      `close()`, but for those of a room that was closed, that one was sent from, or
 *                      that one has left with one's token. The code is null if the `join` was
 *                      refused; the `error` before it says why in a sentence
 */
export class SignalingClient extends EventTarget {
    /** The own id, given by the server; another one if the server forgot us. */
    id = null;
    role = null;

    #options;
    #peers = new Map();
    /** Peers that the server does not know any more, whose connections are still open. */
    #orphans = new Set();
    #room;
    #line;
    #iceTimer = null;
    #iceServers = [];

    constructor(url, options) {
        super();
        if (typeof options?.room !== "string") throw new TypeError("a room is needed");
        this.#options = {dataChannels: {data: {}}, connectTimeout: 15_000, ...options};
        this.#room = {
            connectTimeout: this.#options.connectTimeout,
            dataChannels: this.#options.dataChannels,
            configuration: () => this.#configuration(),
            disown: (peer, message) => {
                const other = this.#disown(peer);
                if (message.type === "offer") other._hear(message); // answers are not for it
            },
            lost: (peer) => this.#orphans.delete(peer) && peer._end("lost"),
            reaches: (peer) => this.#peers.get(peer.id) === peer,
            send: (message) => this.#line.send(message),
        };
        this.#line = new Line(this.#listener(), {
            url: socketAddress(url),
            token: options.token,
            introduction: this.#introduction(),
        });
    }

    /** connecting, joined, away (it comes back by itself) or closed. */
    get status() {
        return this.#line.status;
    }

    /** Everybody there is a connection with, or will be. */
    get peers() {
        return [...this.#peers.values(), ...this.#orphans];
    }

    /** Send JSON through the server, to the peer of this id or to all that take it. */
    relay(payload, to = undefined) {
        if (this.#line.isFull) throw new Error("too much waits already");
        this.#line.send({type: "data", payload, to});
    }

    /** Leave the room, and close all connections. */
    close(reason = undefined) {
        this.#line.close(reason);
        this.#closePeers("left");
    }

    // What the line tells.

    #introduction() {
        const {room, metadata, relayData} = this.#options;
        return {
            room,
            metadata: {...metadata, instance: randomName()},
            capabilities: relayData ? [...CAPABILITIES, "data-relay"] : CAPABILITIES,
        };
    }

    #listener() {
        return {
            hear: (message) => this.#hear(message),
            noteStatus: (status) => {
                clearTimeout(this.#iceTimer);
                emit(this, "status", {status});
            },
            forget: () => this.#forget(),
            noteEnd: (code, reason) => this.#noteEnd(code, reason),
            noteError: (error) => emit(this, "error", {error}),
        };
    }

    #noteEnd(code, reason) {
        emit(this, "closed", {code, reason});
        if (code in ENDS) this.#closePeers(ENDS[code]);
    }

    #closePeers(reason) {
        const peers = this.peers;
        this.#peers.clear();
        this.#orphans.clear();
        for (const peer of peers) peer._end(reason);
    }

    // What the server says.

    #hear(message) {
        switch (message.type) {
            case "joined":
                this.#enter(message);
                break;
            case "peer-joined":
                this.#meet(message);
                break;
            case "peer-left":
                this.#part(message);
                break;
            case "peer-state":
                this.#peers.get(message.peer)?._suspend(message.state === "suspended");
                break;
            case "ice-servers":
                this.#useIceServers(message);
                break;
            case "data":
                emit(this, "data", {from: message.from, payload: message.payload});
                break;
            case "error":
                this.#refused(message);
                break;
            default:
                this.#peers.get(message.from)?._hear(message);
        }
    }

    #enter(message) {
        const {resume} = message;
        this.id = message.peer;
        this.role = message.role;
        this.#useIceServers(message);
        emit(this, "status", {status: "joined"});
        emit(this, "joined", {resumed: resume.resumed});
        if (resume.gap) this.#dropMissing(message.peers);
        for (const info of message.peers ?? []) this.#meet(info);
        if (!resume.resumed) return;
        for (const peer of this.#peers.values()) {
            if (resume.gap) peer._mend();
            else peer._revive();
        }
    }

    #dropMissing(infos) {
        const there = new Set(infos.map(({peer}) => peer));
        for (const id of [...this.#peers.keys()]) {
            if (!there.has(id)) this.#part({peer: id, reason: "lost"});
        }
    }

    #meet(info) {
        const known = this.#peers.get(info.peer);
        if (known) {
            known._follow(info);
            return;
        }
        const orphan = this.#orphanOf(info.metadata?.instance);
        if (!orphan) {
            this.#welcome(info);
            return;
        }
        this.#orphans.delete(orphan);
        this.#peers.set(info.peer, orphan);
        orphan._adopt(info);
    }

    /** The peer that a newcomer says to be. Others may have said that, who could not show it. */
    #orphanOf(instance) {
        if (!instance) return null;
        const claimed = [...this.#peers.values()].filter(({_isClaimed}) => _isClaimed);
        const found = [...this.#orphans, ...claimed].find((each) => each.instance === instance);
        if (found?._isClaimed) this.#disown(found);
        return found;
    }

    #welcome(info) {
        const peer = new Peer(this, this.#room, info);
        this.#peers.set(info.peer, peer);
        emit(this, "peer", {peer});
        peer._follow(info);
        return peer;
    }

    /** Keep the connection of a peer for itself; return who said to be it, as another. */
    #disown(peer) {
        const info = peer._info;
        peer._disclaim();
        this.#keep(peer);
        return this.#welcome(info);
    }

    #part({peer: id, reason}) {
        const peer = this.#peers.get(id);
        if (!peer) return;
        this.#peers.delete(id);
        if (peer._isClaimed && peer._isAlive) {
            peer._disclaim();
            this.#keep(peer);
            return;
        }
        // Who has lost its line only, and not the connection to us, may come back under a new id.
        const mayReturn = ["timeout", "replaced", "lost"].includes(reason);
        if (mayReturn && peer._isAlive) this.#keep(peer);
        else peer._end(reason);
    }

    #keep(orphan) {
        this.#orphans.add(orphan);
        if (this.#orphans.size > MOST_ORPHANS) {
            const [oldest] = this.#orphans;
            this.#orphans.delete(oldest);
            oldest._end("lost");
        }
    }

    /** The server does not know us any more: be somebody new, but keep what is connected. */
    #forget() {
        for (const id of [...this.#peers.keys()]) this.#part({peer: id, reason: "lost"});
    }

    #refused(message) {
        emit(this, "error", message);
        if (message.re === "join") return; // the line knows what to do
        if (message.re === "ice" || message.code === "turn-unavailable") {
            this.#refreshIceServersIn(ICE_RETRY);
        }
        this.#peers.get(message.to)?._noteError(message);
    }

    // ICE servers.

    #configuration() {
        const iceServers = this.#options.iceServers ?? this.#iceServers;
        return {...this.#options.rtcConfiguration, iceServers};
    }

    #useIceServers({iceServers, iceServersTtl}) {
        if (this.#options.iceServers) return;
        this.#iceServers = iceServers;
        for (const peer of this.peers) peer._configure(this.#configuration());
        clearTimeout(this.#iceTimer);
        if (iceServersTtl !== null) this.#refreshIceServersIn(iceServersTtl * 800);
    }

    #refreshIceServersIn(milliseconds) {
        clearTimeout(this.#iceTimer);
        this.#iceTimer = setTimeout(
            () => this.#line.write({type: "get-ice-servers", id: "ice"}),
            Math.min(milliseconds, LONGEST_TIMER),
        );
    }
}

function socketAddress(url) {
    const address = new URL(url, globalThis.location?.href);
    address.protocol = address.protocol.replace("http", "ws");
    return address;
}

function randomName() {
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
