/** What is read of a session description; everything else in it is the browsers' business. */

/** The certificate that a description names; null without one. */
export function fingerprint(description) {
    return /^a=fingerprint:(.+?)\s*$/m.exec(description?.sdp ?? "")?.[1].toLowerCase() ?? null;
}

/** Whether a description has candidates. */
export function hasCandidates(description) {
    return /^a=candidate:/m.test(description?.sdp ?? "");
}

/** Whether a description is of another RTCPeerConnection than the one that was agreed with. */
export function isAnother(pc, description) {
    const [known, said] = [fingerprint(pc.remoteDescription), fingerprint(description)];
    return known !== null && said !== null && known !== said;
}
