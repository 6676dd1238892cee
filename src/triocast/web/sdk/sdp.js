/** What is read of a session description; everything else in it is the browsers' business. */

/** The certificate that a description names, by each hash that it gives. */
export function fingerprints(description) {
    // Nothing that goes back: a peer's long line of blanks would stop the page for seconds.
    const lines = (description?.sdp ?? "").matchAll(/^a=fingerprint:(.+)$/gm);
    return new Set(Array.from(lines, ([, said]) => said.trim().toLowerCase()));
}

/** Whether a description has candidates. */
export function hasCandidates(description) {
    return /^a=candidate:/m.test(description?.sdp ?? "");
}

/** Whether a description is of the RTCPeerConnection that was agreed with. */
export function isSame(pc, description) {
    const known = fingerprints(pc.remoteDescription);
    return [...fingerprints(description)].some((each) => known.has(each));
}

/**
 * Whether a description is of another RTCPeerConnection than the one that was agreed with. Of
 * several hashes browsers may remember only one.
 */
export function isAnother(pc, description) {
    const [known, said] = [fingerprints(pc.remoteDescription), fingerprints(description)];
    return known.size > 0 && said.size > 0 && !isSame(pc, description);
}
