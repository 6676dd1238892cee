/** Another peer of a room: one RTCPeerConnection after the other, and what is agreed on them. */

import {Attention} from "./attention.js";
import {isSpent, pathOf, whyNot} from "./connection.js";
import {isAnother, isSame} from "./sdp.js";

const MOST_EARLY = 256;
const MOST_ERRORS = 32;
const LONGEST_ERROR = 500;

/** Have a target tell its listeners. */
export function emit(target, type, detail) {
    target.dispatchEvent(new CustomEvent(type, {detail}));
}

/**
 * Another peer of the room. Its events come at the client too, with `detail.peer`:
 *
 * `connection` {pc}     a new RTCPeerConnection, before anything is agreed: add tracks here
 * `channel` {channel}   a data channel that is open
 * `track` {track, streams, transceiver}
 * `state` {state}       connecting, connected, disconnected, failed, closed
 * `failed` {reason, errors}   it did not connect in time: no usable candidates, no usable
 *                       candidates of the peer, no offer, no answer, or timeout; or no connection
 *                       can be made here at all. `errors` has what went wrong on the way. A later
 *                       success is told as `state`.
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
    #room;
    #session = 0;
    #initiator = false;
    #polite = false;
    #strict = false;
    #restartsIce = false;
    #answered = false;
    #offerId = 0;
    #work = Promise.resolve();
    #early = [];
    #errors = [];
    #timer = null;
    #isFirstTry = true;
    #needsMending = false;
    #info = null;
    /** Who it was, as long as another only says to be it. */
    #before = null;
    #attention = new Attention(
        (message) => this.#heed(message),
        (wasBehind) => this.#rest(wasBehind),
    );

    /** For SignalingClient, as is everything that begins with an underscore. */
    constructor(client, room, info) {
        super();
        this.#client = client;
        this.#room = room;
        this.suspended = info.state === "suspended";
        this.#describe(info);
    }

    /** How the bytes travel: {local, remote, protocol}, as host, srflx, prflx or relay; or null. */
    async path() {
        return this.pc && pathOf(this.pc);
    }

    /** Try again: with new candidates or, where nothing was ever agreed, a new connection. */
    restart() {
        this.#startTimer();
        if (!this.#initiator && !this.pc) {
            this.#startOver(); // The offer is lost: it found no connection.
        } else if (!this.#initiator) this.#say({type: "renegotiate", iceRestart: true});
        else if (!this.pc?.remoteDescription || !this.#restartsIce) this.#rebuild();
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

    /** Whether somebody says to be this peer, and has not shown it by the certificate. */
    get _isClaimed() {
        return this.#before !== null;
    }

    /** What the server says of who is, or says to be, this peer. */
    get _info() {
        return {...this.#info, state: this.suspended ? "suspended" : "connected"};
    }

    #describe(info) {
        this.#info = info;
        const isObject = info.metadata?.constructor === Object;
        const {instance = null, ...metadata} = isObject ? info.metadata : {};
        this.id = info.peer;
        this.role = info.role;
        this.instance = instance;
        this.metadata = isObject ? metadata : info.metadata;
        this.#initiator = info.initiator;
        this.#polite = info.polite;
        this.#strict = info.strict;
        this.#restartsIce = info.capabilities.includes("ice-restart");
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
        this.#before = this.#info;
        this.#session = info.session;
        this.#answered = false;
        this.#early = [];
        this.#attention.drop();
        this._follow(info);
        if (!this._isUp) this.#startTimer();
        if (this.#initiator) this.#enqueue((pc) => this.#offer(pc, {iceRestart: !this._isUp}));
    }

    /** Be again who it was: somebody else only said to be it. */
    _disclaim() {
        this.#describe(this.#before);
        this.#before = null;
        this.#needsMending = false;
        this.#early = [];
        this.#attention.drop();
        clearTimeout(this.#timer);
        this.#timer = null;
    }

    /**
     * Whether a description shows that who says to be this peer is. Anybody in the room could say
     * so, and must not get at a connection that works.
     */
    #isProved(description) {
        if (this._isUp && !isSame(this.pc, description)) return false;
        this.#before = null;
        return true;
    }

    /** Begin anew with another connection: the initiator's right. */
    #rebuild() {
        this.#begin(this.#session + 1);
    }

    /** Have both sides make new connections: the initiator knows by the answer of another one. */
    #startOver() {
        if (this.#initiator) {
            this.#rebuild();
            return;
        }
        this.#answered = false;
        this.#build();
        if (this.pc) this.#say({type: "renegotiate", iceRestart: true, reason: "gap"});
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
        const isDown = ["disconnected", "failed"].includes(this.pc?.connectionState);
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
            this.pc?.setConfiguration(configuration);
        } catch (error) {
            this.#note(error);
        }
    }

    _end(reason) {
        this.#attention.drop();
        this.#needsMending = false;
        this.#dismantle();
        this.#setState("closed");
        this.#tell("left", {reason});
    }

    // What the peer says.

    _hear(message) {
        if (message.session < this.#session) return;
        if (message.type === "candidate" || message.type === "end-of-candidates") {
            this.#takeCandidate(message);
        } else if (!this.#attention.take(message)) {
            this.#needsMending = true; // it is said again when there is time
        }
    }

    #rest(wasBehind) {
        if (wasBehind) this.#enqueue(() => this.#takeEarly());
        else if (this.#needsMending && !this.suspended) this._mend();
    }

    #heed(message) {
        if (message.session < this.#session) return;
        if (this._isClaimed && message.description && !this.#isProved(message.description)) {
            this.#room.disown(this, message);
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
        if (isSpent(pc) && this.#initiator) {
            this.#rebuild();
            return;
        }
        // Some browsers hang for ever if their first offer is rolled back before it has candidates.
        const isUnfit = isSpent(pc) || (collides && !pc.remoteDescription);
        if (isUnfit || isAnother(pc, message.description)) {
            this.#build();
            this.#enqueue((fresh) => this.#takeOffer(fresh, message));
            return;
        }
        try {
            await pc.setRemoteDescription(message.description);
        } catch (error) {
            // Of an offer that is rolled back something stays, and may contradict the one that
            // comes: in Firefox if that restarts ICE, in Chromium by the numbers of extensions.
            if (collides && pc === this.pc) this.#startOver();
            throw error;
        }
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
        const remote = this.pc?.remoteDescription;
        const fragment = message.candidate?.usernameFragment;
        const isEarly =
            message.session > this.#session ||
            this.#attention.isBehind ||
            !remote ||
            (fragment && !remote.sdp.includes(`a=ice-ufrag:${fragment}`));
        if (isEarly) {
            this.#early.push(message);
            if (this.#early.length > MOST_EARLY) this.#early.shift();
            return;
        }
        const pc = this.pc;
        pc.addIceCandidate(message.candidate).catch((error) => {
            if (pc === this.pc) this.#remember(error);
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
        this.#work = Promise.resolve(); // what a closed connection was asked for may never end
        this.#errors = [];
        this.#setState("connecting");
        this.#startTimer();
        this.#isFirstTry = true;
        const pc = (this.pc = this.#make());
        if (!pc) {
            this.#fail();
            return;
        }
        pc.onicecandidate = ({candidate}) => {
            if (!candidate?.candidate) this.#say({type: "end-of-candidates"});
            else this.#say({type: "candidate", candidate});
        };
        pc.onicecandidateerror = ({url, errorCode, errorText}) => {
            // Firefox has no text for most of them.
            this.#remember([errorCode, errorText, url].filter(Boolean).join(" "));
        };
        pc.onnegotiationneeded = () => this.#enqueue((same) => this.#negotiate(same));
        pc.onconnectionstatechange = () => this.#noteState(pc);
        pc.ondatachannel = ({channel}) => this.#addChannel(channel);
        pc.ontrack = ({track, streams, transceiver}) => {
            this.#tell("track", {track, streams, transceiver});
        };
        for (const [label, options] of Object.entries(this.#room.dataChannels)) {
            if (this.#initiator || options?.negotiated) {
                this.#openChannel(pc, label, options ?? {});
            }
        }
        this.#tell("connection", {pc});
    }

    /** Browsers refuse wrong servers, and to have more than some hundreds of connections. */
    #make() {
        try {
            return new RTCPeerConnection(this.#room.configuration());
        } catch (error) {
            this.#note(error);
            return null;
        }
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

    #openChannel(pc, label, options) {
        try {
            this.#addChannel(pc.createDataChannel(label, options));
        } catch (error) {
            this.#note(error); // options that contradict each other, for one
        }
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
            if (!pc || pc !== this.pc || pc.signalingState === "closed") return;
            try {
                await operation(pc);
            } catch (error) {
                if (pc === this.pc) this.#note(error);
            }
        });
    }

    async #offer(pc, {iceRestart = false} = {}) {
        if (iceRestart && isSpent(pc)) {
            return this.#startOver();
        } else if (iceRestart && !this.#restartsIce) {
            if (!this._isUp && this.#initiator) return this.#rebuild();
        } else if (iceRestart) {
            pc.restartIce();
        }
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
            if (isSpent(pc)) this.#startOver();
            else this.#setState("connected");
        } else if (state === "disconnected") {
            this.#setState("disconnected");
        } else if (state === "failed") {
            if (!this.#room.reaches(this)) this.#room.lost(this);
            else if (this.#timer !== null && !this.#isFirstTry && isSpent(pc)) this.#startOver();
            else if (this.#timer !== null) this.#fail();
            else if (this.state !== "failed") this.restart();
        }
    }

    #startTimer() {
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.#fail(), this.#room.connectTimeout);
        this.#isFirstTry = false;
        if (this.state === "failed") this.#setState("connecting");
    }

    #fail() {
        clearTimeout(this.#timer);
        this.#timer = null;
        if (this._isUp) return;
        this.#setState("failed");
        this.#tell("failed", {reason: whyNot(this.pc), errors: [...this.#errors]});
    }

    #setState(state) {
        if (state === this.state && state !== "connecting") return;
        this.state = state;
        this.#tell("state", {state});
    }

    /** A peer can be the cause of errors without end, and of long ones. */
    #remember(error) {
        this.#errors.push(String(error).slice(0, LONGEST_ERROR));
        if (this.#errors.length > MOST_ERRORS) this.#errors.shift();
    }

    #note(error) {
        this.#remember(error);
        this.#tell("error", {error});
    }

    #say(message) {
        if (this.#room.reaches(this)) {
            this.#room.send({...message, to: this.id, session: this.#session});
        }
    }

    #tell(type, detail) {
        emit(this, type, detail);
        emit(this.#client, type, {peer: this, ...detail});
    }
}
