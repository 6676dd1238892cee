/** What is read of an RTCPeerConnection, beyond its states. */

import {hasCandidates} from "./sdp.js";

/**
 * Whether no data channel can open any more, though the rest may connect: where Firefox finds no
 * way to the other side, it ends SCTP for good, against the standard. A restart of ICE is too
 * little then.
 */
export function isSpent(pc) {
    // DTLS is told as failed first, and SCTP as closed after the connection's own event.
    return pc.sctp?.state === "closed" || pc.sctp?.transport?.state === "failed";
}

/** Why it has not connected, as far as descriptions show; null is one that could not be made. */
export function whyNot(pc) {
    if (!pc) return "no connection can be made";
    if (!pc.localDescription) return "no offer";
    if (!hasCandidates(pc.localDescription)) return "no usable candidates";
    if (!pc.remoteDescription) return "no answer";
    if (!hasCandidates(pc.remoteDescription)) return "no usable candidates of the peer";
    return "timeout";
}

/** How the bytes travel: {local, remote, protocol}, as host, srflx, prflx or relay; or null. */
export async function pathOf(pc) {
    const stats = await pc.getStats();
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
