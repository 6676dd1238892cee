/**
 * WebRTC signaling for browsers: finds the peers of a room and keeps a connection to each.
 *
 *     const client = new SignalingClient("/realtime/webrtc/signaling", {room: "team"});
 *     client.addEventListener("channel", ({detail: {peer, channel}}) => …);
 *
 * `SignalingClient` has the line to the server, `Peer` one RTCPeerConnection and its negotiation.
 * The connections outlive the line: they are not closed because the server has gone.
 * docs/reference/signaling.md is the specification of what is said.
 */

export const SUBPROTOCOL = "triocast.webrtc.v1";

const CAPABILITIES = ["trickle", "rollback", "ice-restart"];
const STOPS = new Set([1000, 1002, 1003, 1007, 1008, 1009]);
const FIRST_DELAY = 500;
const LONGEST_DELAY = 20_000;
const HANDSHAKE_TIME = 15_000;
const ICE_RETRY = 10_000;
const LONGEST_TIMER = 2 ** 31 - 1;
const MOST_EARLY = 256;
const MOST_UNSENT = 1_000;

/** Whether a client that saw this close code must not come back. */
export function isFinal(code) {
    return STOPS.has(code) || (code >= 4500 && code <= 4999);
}

/** Milliseconds to wait before the attempt of this number, from 0: it doubles, half of it by lot. */
export function backoff(attempt, random = Math.random) {
    const longest = Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** attempt);
    return longest / 2 + (random() * longest) / 2;
}

/** The certificate that a description names; null without one. */
export function fingerprint(description) {
    return /^a=fingerprint:(.+?)\s*$/m.exec(description?.sdp ?? "")?.[1].toLowerCase() ?? null;
}

function hasCandidates(description) {
    return /^a=candidate:/m.test(description?.sdp ?? "");
}

function emit(target, type, detail = {}) {
    target.dispatchEvent(new CustomEvent(type, {detail}));
}

function randomName() {
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Another peer of the room. Its events come at the client too, with `detail.peer`:
 *
 * `connection` {pc}     a new RTCPeerConnection, before anything is agreed: add tracks here
 * `channel` {channel}   a data channel that is open
 * `track` {track, streams, transceiver}
 * `state` {state}       connecting, connected, disconnected, failed, closed
 * `failed` {reason, errors}   it did not connect in time: no usable candidates, no usable
 *                       candidates of the peer, no offer, no answer, or timeout; `errors` has
 *                       what went wrong on the way. A later success is told as `state`.
 * `presence` {suspended}      whether the peer's own line to the server is broken
 * `left` {reason}       left, timeout, kicked, replaced, closed (the room), or lost (the connection,
 *                       while the server did not know the peer)
 * `error` {error}
 */
export class Peer extends EventTarget {
    id = null;
    role = null;
    metadata = null;
    instance = null;
    suspended = false;
    state = "connecting";
    pc = null;
    /** The open data channels by label. */
    channels = new Map();

    #client;
    #line;
    #session = 0;
    #initiator = false;
    #polite = false;
    #strict = false;
    #answered = false;
    #offerId = 0;
    #work = Promise.resolve();
    #early = [];
    #errors = [];
    #timer = null;
    #needsMending = false;

    /** For SignalingClient, as is everything that begins with an underscore. */
    constructor(client, line, info) {
        super();
        this.#client = client;
        this.#line = line;
        this.suspended = info.state === "suspended";
        this.#describe(info);
    }

    /** How the bytes travel: {local, remote, protocol}, as host, srflx, prflx or relay; or null. */
    async path() {
        const stats = await this.pc.getStats();
        const all = [...stats.values()];
        const chosen = all.find((each) => each.selectedCandidatePairId)?.selectedCandidatePairId;
        const pair = stats.get(chosen) ?? all.find((each) => each.selected);
        const local = stats.get(pair?.localCandidateId);
        const remote = stats.get(pair?.remoteCandidateId);
        if (!local || !remote) return null;
        return {
            local: local.candidateType,
            remote: remote.candidateType,
            protocol: local.protocol,
        };
    }

    /** Try again: with new candidates or, where nothing was ever agreed, a new connection. */
    restart() {
        this.#startTimer();
        if (!this.#initiator) this.#say({type: "renegotiate", iceRestart: true});
        else if (!this.pc.remoteDescription) this.#rebuild();
        else this.#enqueue((pc) => this.#offer(pc, {iceRestart: true}));
    }

    // What the server says about the peer.

    get _isUp() {
        return this.pc?.connectionState === "connected";
    }

    /** Whether there is a connection, which may have a moment of weakness. */
    get _isAlive() {
        return ["connected", "disconnected"].includes(this.pc?.connectionState);
    }

    #describe(info) {
        const isObject = info.metadata?.constructor === Object;
        const {instance = null, ...metadata} = isObject ? info.metadata : {};
        this.id = info.peer;
        this.role = info.role;
        this.instance = instance;
        this.metadata = isObject ? metadata : info.metadata;
        this.#initiator = info.initiator;
        this.#polite = info.polite;
        this.#strict = info.strict;
    }

    /** Take what the server says of the pair, and begin a session that is new. */
    _follow(info) {
        this.#describe(info);
        this._suspend(info.state === "suspended");
        if (info.session > this.#session) this.#begin(info.session);
    }

    #begin(session) {
        this.#enter(session);
        this.#build();
        if (this.#initiator) this.#enqueue((pc) => this.#offer(pc));
    }

    /** Go on with the open connection under the peer's new id, from a server that forgot both. */
    _adopt(info) {
        this.#session = info.session;
        this.#answered = false;
        this.#early = [];
        this._follow(info);
        if (!this._isUp) this.#startTimer();
        if (this.#initiator) this.#enqueue((pc) => this.#offer(pc, {iceRestart: !this._isUp}));
    }

    /** Begin anew with another connection: the initiator's right. */
    #rebuild() {
        this.#begin(this.#session + 1);
    }

    _suspend(suspended) {
        if (suspended === this.suspended) return;
        this.suspended = suspended;
        this.#tell("presence", {suspended});
        if (!suspended && this.#needsMending) this._mend();
    }

    /** Something of what was said is lost: have both sides say again what is open. */
    _mend() {
        this.#needsMending = false;
        if (!this._isUp) this.#startTimer();
        this.#say({type: "renegotiate", iceRestart: true, reason: "gap"});
        this.#enqueue((pc) => {
            const isOpen = this.#initiator || pc.signalingState === "have-local-offer";
            return isOpen ? this.#offer(pc, {iceRestart: true}) : null;
        });
    }

    /** The line is back, and nothing is lost: whoever is not connected tries again. */
    _revive() {
        const isDown = ["disconnected", "failed"].includes(this.pc.connectionState);
        if (isDown || this.state === "failed") this.restart();
    }

    _noteError(message) {
        if (["queue-full", "expired"].includes(message.code)) {
            this.#needsMending = true;
            if (!this.suspended) this._mend();
        }
        this.#note(new Error(`${message.code}: ${message.message}`));
    }

    _configure(configuration) {
        try {
            this.pc.setConfiguration(configuration);
        } catch (error) {
            this.#note(error);
        }
    }

    _end(reason) {
        this.#dismantle();
        this.#setState("closed");
        this.#tell("left", {reason});
    }

    // What the peer says.

    _hear(message) {
        if (message.session < this.#session) return;
        if (message.type === "candidate" || message.type === "end-of-candidates") {
            this.#takeCandidate(message);
            return;
        }
        if (message.session > this.#session) {
            if (message.type !== "offer") return;
            this.#enter(message.session);
            this.#build();
        }
        if (message.type === "offer") this.#enqueue((pc) => this.#takeOffer(pc, message));
        else if (message.type === "answer") this.#enqueue((pc) => this.#takeAnswer(pc, message));
        else if (message.type === "renegotiate") this.#enqueue((pc) => this.#beAsked(pc, message));
    }

    async #takeOffer(pc, message) {
        const collides = pc.signalingState !== "stable";
        // The first offer of a session is the initiator's, and never turned down.
        if (collides && !this.#polite && (this.#initiator || this.#answered)) return;
        // Some browsers hang for ever if their first offer is rolled back before it has candidates.
        if ((collides && !pc.remoteDescription) || isAnother(pc, message.description)) {
            this.#build();
            this.#enqueue((fresh) => this.#takeOffer(fresh, message));
            return;
        }
        await pc.setRemoteDescription(message.description);
        this.#takeEarly();
        await pc.setLocalDescription();
        if (pc !== this.pc) return;
        this.#answered = true;
        this.#say({type: "answer", description: pc.localDescription, offerId: message.offerId});
    }

    async #takeAnswer(pc, message) {
        const offerId = message.offerId ?? this.#offerId;
        if (pc.signalingState !== "have-local-offer" || offerId !== this.#offerId) return;
        if (isAnother(pc, message.description)) {
            if (this.#initiator) this.#rebuild();
            return;
        }
        await pc.setRemoteDescription(message.description);
        this.#takeEarly();
    }

    #beAsked(pc, {iceRestart, reason}) {
        const isOut = pc.signalingState === "have-local-offer";
        if (isOut ? reason !== "gap" : !this.#initiator) return null;
        if (!this._isUp) this.#startTimer();
        return this.#offer(pc, {iceRestart: iceRestart || isOut});
    }

    #takeCandidate(message) {
        const remote = this.pc.remoteDescription;
        const fragment = message.candidate?.usernameFragment;
        const isEarly =
            message.session > this.#session ||
            !remote ||
            (fragment && !remote.sdp.includes(`a=ice-ufrag:${fragment}`));
        if (isEarly) {
            this.#early.push(message);
            if (this.#early.length > MOST_EARLY) this.#early.shift();
            return;
        }
        const pc = this.pc;
        pc.addIceCandidate(message.candidate).catch((error) => {
            if (pc === this.pc) this.#errors.push(String(error));
        });
    }

    #takeEarly() {
        const early = this.#early;
        this.#early = [];
        for (const message of early) this.#takeCandidate(message);
    }

    // The connection.

    #enter(session) {
        this.#session = session;
        this.#answered = false;
        this.#early = this.#early.filter((message) => message.session >= session);
    }

    #build() {
        this.#dismantle();
        const pc = new RTCPeerConnection(this.#line.configuration());
        this.pc = pc;
        this.#work = Promise.resolve(); // what a closed connection was asked for may never end
        this.#errors = [];
        this.#setState("connecting");
        this.#startTimer();
        pc.onicecandidate = ({candidate}) => {
            if (!candidate?.candidate) this.#say({type: "end-of-candidates"});
            else this.#say({type: "candidate", candidate});
        };
        pc.onicecandidateerror = ({url, errorCode, errorText}) => {
            this.#errors.push(`${errorCode} ${errorText} ${url}`.trim());
        };
        pc.onnegotiationneeded = () => this.#enqueue((same) => this.#negotiate(same));
        pc.onconnectionstatechange = () => this.#noteState(pc);
        pc.ondatachannel = ({channel}) => this.#addChannel(channel);
        pc.ontrack = ({track, streams, transceiver}) => {
            this.#tell("track", {track, streams, transceiver});
        };
        for (const [label, options] of Object.entries(this.#line.dataChannels)) {
            if (this.#initiator || options?.negotiated) {
                this.#addChannel(pc.createDataChannel(label, options ?? {}));
            }
        }
        this.#tell("connection", {pc});
    }

    #dismantle() {
        clearTimeout(this.#timer);
        this.#timer = null;
        const pc = this.pc;
        if (!pc) return;
        pc.onicecandidate = pc.onicecandidateerror = pc.onnegotiationneeded = null;
        pc.onconnectionstatechange = pc.ondatachannel = pc.ontrack = null;
        pc.close();
        this.channels.clear();
    }

    #addChannel(channel) {
        const opened = () => {
            this.channels.set(channel.label, channel);
            this.#tell("channel", {channel});
        };
        channel.addEventListener("close", () => {
            if (this.channels.get(channel.label) === channel) this.channels.delete(channel.label);
        });
        if (channel.readyState === "open") opened();
        else channel.addEventListener("open", opened);
    }

    /** One operation at a time, and none for a connection that has been replaced. */
    #enqueue(operation) {
        const pc = this.pc;
        this.#work = this.#work.then(async () => {
            if (pc !== this.pc || pc.signalingState === "closed") return;
            try {
                await operation(pc);
            } catch (error) {
                if (pc === this.pc) this.#note(error);
            }
        });
    }

    async #offer(pc, {iceRestart = false} = {}) {
        if (iceRestart) pc.restartIce();
        await pc.setLocalDescription();
        if (pc !== this.pc) return;
        this.#offerId += 1;
        this.#say({type: "offer", description: pc.localDescription, offerId: this.#offerId});
    }

    #negotiate(pc) {
        if (pc.signalingState !== "stable") return null; // asked again once it is
        if (this.#initiator || (this.#answered && !this.#strict)) return this.#offer(pc);
        if (this.#answered) this.#say({type: "renegotiate", iceRestart: false});
        return null;
    }

    #noteState(pc) {
        const state = pc.connectionState;
        if (state === "connected") {
            clearTimeout(this.#timer);
            this.#timer = null;
            this.#setState("connected");
        } else if (state === "disconnected") {
            this.#setState("disconnected");
        } else if (state === "failed") {
            if (!this.#line.reaches(this)) this.#line.lost(this);
            else if (this.#timer !== null) this.#fail();
            else if (this.state !== "failed") this.restart();
        }
    }

    #startTimer() {
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.#fail(), this.#line.connectTimeout);
        if (this.state === "failed") this.#setState("connecting");
    }

    #fail() {
        clearTimeout(this.#timer);
        this.#timer = null;
        if (this._isUp) return;
        const {localDescription: local, remoteDescription: remote} = this.pc;
        let reason = "timeout";
        if (!local) reason = "no offer";
        else if (!hasCandidates(local)) reason = "no usable candidates";
        else if (!remote) reason = "no answer";
        else if (!hasCandidates(remote)) reason = "no usable candidates of the peer";
        this.#setState("failed");
        this.#tell("failed", {reason, errors: [...this.#errors]});
    }

    #setState(state) {
        if (state === this.state && state !== "connecting") return;
        this.state = state;
        this.#tell("state", {state});
    }

    #note(error) {
        this.#errors.push(String(error));
        this.#tell("error", {error});
    }

    #say(message) {
        if (this.#line.reaches(this)) {
            this.#line.send({...message, to: this.id, session: this.#session});
        }
    }

    #tell(type, detail) {
        emit(this, type, detail);
        emit(this.#client, type, {peer: this, ...detail});
    }
}

/** Whether a description is of another RTCPeerConnection than the one that was agreed with. */
function isAnother(pc, description) {
    const [known, said] = [fingerprint(pc.remoteDescription), fingerprint(description)];
    return known !== null && said !== null && known !== said;
}

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
 *                      `close()`, but for those of a room that was closed or that one was sent from
 */
export class SignalingClient extends EventTarget {
    status = "connecting";
    /** The own id, given by the server; another one if the server forgot us. */
    id = null;
    role = null;

    #options;
    #url;
    #instance = randomName();
    #peers = new Map();
    #orphans = new Set();
    #line;
    #socket = null;
    #isJoined = false;
    #attempt = 0;
    #retryTimer = null;
    #silenceTimer = null;
    #iceTimer = null;
    #iceServers = [];
    #patience = HANDSHAKE_TIME;
    #token;
    #resumeToken = null;
    #lastSeq = 0;
    #nextSeq = 1;
    #unacknowledged = [];
    #comeBack = () => this.#hurry();

    constructor(url, options) {
        super();
        if (typeof options?.room !== "string") throw new TypeError("a room is needed");
        this.#options = {dataChannels: {data: {}}, connectTimeout: 15_000, ...options};
        this.#url = new URL(url, globalThis.location?.href);
        this.#url.protocol = this.#url.protocol.replace("http", "ws");
        this.#line = {
            connectTimeout: this.#options.connectTimeout,
            dataChannels: this.#options.dataChannels,
            configuration: () => this.#configuration(),
            lost: (peer) => this.#orphans.delete(peer) && peer._end("lost"),
            reaches: (peer) => this.#peers.get(peer.id) === peer,
            send: (message) => this.#sendNumbered(message),
        };
        globalThis.addEventListener?.("online", this.#comeBack);
        this.#connect();
    }

    /** Everybody there is a connection with, or will be. */
    get peers() {
        return [...this.#peers.values(), ...this.#orphans];
    }

    /** Send JSON through the server, to the peer of this id or to all that take it. */
    relay(payload, to = undefined) {
        if (this.#unacknowledged.length >= MOST_UNSENT) throw new Error("too much waits already");
        this.#sendNumbered({type: "data", payload, to});
    }

    /** Leave the room, and close all connections. */
    close(reason = undefined) {
        if (this.status !== "closed") {
            if (this.#isJoined) this.#write({type: "leave", reason});
            this.#socket?.close(1000);
            this.#end(1000, "left");
        }
        this.#closePeers("left");
    }

    // The line to the server.

    async #connect() {
        this.#setStatus("connecting");
        let token;
        try {
            const {token: given} = this.#options;
            token = typeof given === "function" ? await given() : given;
        } catch (error) {
            emit(this, "error", {error});
            this.#retry();
            return;
        }
        if (this.status === "closed") return;
        const socket = new WebSocket(this.#url, SUBPROTOCOL);
        this.#socket = socket;
        this.#token = token;
        socket.onopen = () => this.#join();
        socket.onmessage = ({data}) => this.#hear(JSON.parse(data));
        socket.onclose = ({code, reason}) => this.#lose(code, reason);
        this.#patience = HANDSHAKE_TIME;
        this.#expectWord();
    }

    #join() {
        const resume = this.#resumeToken && {token: this.#resumeToken, lastSeq: this.#lastSeq};
        this.#write({
            type: "join",
            id: "join",
            version: 1,
            room: this.#options.room,
            token: this.#token,
            metadata: {...this.#options.metadata, instance: this.#instance},
            capabilities: this.#options.relayData ? [...CAPABILITIES, "data-relay"] : CAPABILITIES,
            resume: resume || undefined,
        });
    }

    #lose(code, reason) {
        this.#drop();
        if (!isFinal(code)) {
            this.#retry();
            return;
        }
        this.#end(code, reason);
        if (code === 4502 || code === 4503) this.#closePeers(code === 4502 ? "kicked" : "closed");
    }

    #drop() {
        clearTimeout(this.#silenceTimer);
        clearTimeout(this.#iceTimer);
        this.#isJoined = false;
        const socket = this.#socket;
        this.#socket = null;
        if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
        return socket;
    }

    #retry(least = 0) {
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
        this.#drop();
        clearTimeout(this.#retryTimer);
        globalThis.removeEventListener?.("online", this.#comeBack);
        this.#setStatus("closed");
        emit(this, "closed", {code, reason});
    }

    #closePeers(reason) {
        const peers = this.peers;
        this.#peers.clear();
        this.#orphans.clear();
        for (const peer of peers) peer._end(reason);
    }

    #setStatus(status) {
        if (status === this.status) return;
        this.status = status;
        emit(this, "status", {status});
    }

    #write(message) {
        if (this.#socket?.readyState === WebSocket.OPEN) {
            this.#socket.send(JSON.stringify(message));
        }
    }

    /** What peers are told is kept until the server has it, and sent again after a break. */
    #sendNumbered(message) {
        if (this.status === "closed") return;
        const numbered = {...message, seq: this.#nextSeq};
        this.#nextSeq += 1;
        this.#unacknowledged.push(numbered);
        if (this.#isJoined) this.#write(numbered);
    }

    #acknowledge(received) {
        this.#unacknowledged = this.#unacknowledged.filter(({seq}) => seq > received);
    }

    // What the server says.

    #hear(message) {
        this.#expectWord();
        if (message.seq !== undefined) {
            if (message.seq <= this.#lastSeq) return;
            this.#lastSeq = message.seq;
        }
        switch (message.type) {
            case "ping":
                this.#acknowledge(message.received ?? 0);
                this.#write({type: "pong", t: message.t, seq: this.#lastSeq});
                break;
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
        const {resume, heartbeat} = message;
        this.#attempt = 0;
        this.#patience = (heartbeat.interval + heartbeat.timeout) * 1000;
        this.#expectWord();
        this.id = message.peer;
        this.role = message.role;
        this.#resumeToken = resume.token;
        if (!resume.resumed || resume.gap) this.#lastSeq = resume.seq;
        this.#useIceServers(message);
        this.#acknowledge(resume.received);
        this.#isJoined = true;
        for (const unsure of this.#unacknowledged) this.#write(unsure);
        this.#setStatus("joined");
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
        const instance = info.metadata?.instance;
        for (const orphan of this.#orphans) {
            if (instance && orphan.instance === instance) {
                this.#orphans.delete(orphan);
                this.#peers.set(info.peer, orphan);
                orphan._adopt(info);
                return;
            }
        }
        const peer = new Peer(this, this.#line, info);
        this.#peers.set(info.peer, peer);
        emit(this, "peer", {peer});
        peer._follow(info);
    }

    #part({peer: id, reason}) {
        const peer = this.#peers.get(id);
        if (!peer) return;
        this.#peers.delete(id);
        // Who has lost its line only, and not the connection to us, may come back under a new id.
        const mayReturn = ["timeout", "replaced", "lost"].includes(reason);
        if (mayReturn && peer._isAlive) this.#orphans.add(peer);
        else peer._end(reason);
    }

    /** The server does not know us any more: be somebody new, but keep what is connected. */
    #forget() {
        this.#resumeToken = null;
        this.#lastSeq = 0;
        this.#nextSeq = 1;
        this.#unacknowledged = [];
        for (const id of [...this.#peers.keys()]) this.#part({peer: id, reason: "lost"});
    }

    #refused(message) {
        if (message.code === "resume-failed") {
            this.#forget();
            this.#join();
            return;
        }
        emit(this, "error", message);
        if (message.re === "join") {
            this.#drop()?.close();
            if (message.temporary) this.#retry((message.retryAfter ?? 0) * 1000);
            else this.#end(null, message.code);
            return;
        }
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
            () => this.#write({type: "get-ice-servers", id: "ice"}),
            Math.min(milliseconds, LONGEST_TIMER),
        );
    }
}
