// A chat over data channels, and how each pair of peers is connected.
import {SignalingClient} from "../sdk/signaling.js";

const $ = (id) => document.getElementById(id);
const rows = new Map();
const ENDS = {
    4500: "Your token has ended. Join with a new one.",
    4502: "You were removed from the room.",
    4503: "The room was closed.",
};
const LONGEST_NAME = 100;
let client = null;

$("name").value = `Guest ${Math.floor(Math.random() * 900) + 100}`;

$("entrance").addEventListener("submit", (event) => {
    event.preventDefault();
    enter($("room").value, $("name").value, $("token").value || undefined);
});
$("say").addEventListener("submit", (event) => {
    event.preventDefault();
    say($("text").value);
    $("text").value = "";
});
$("leave").addEventListener("click", () => client.close());
addEventListener("pagehide", (event) => {
    if (!event.persisted) client?.close();
});

function enter(room, name, token) {
    showRoom(true);
    $("me").textContent = name;
    $("where").textContent = room;
    $("trouble").textContent = "";
    document.title = `${name} in ${room}: Triocast`;
    let refusal = "";
    client = new SignalingClient("signaling", {
        room,
        token,
        metadata: {name},
        dataChannels: {chat: {}},
    });
    on("status", showStatus);
    on("joined", () => ($("trouble").textContent = ""));
    on("peer", ({peer}) => addRow(peer));
    on("state", ({peer}) => show(peer));
    on("presence", ({peer}) => show(peer));
    on("failed", ({peer, reason, errors}) => show(peer, [reason, ...errors].join("; ")));
    on("channel", ({peer, channel}) => {
        channel.addEventListener("message", ({data}) => write(nameOf(peer), data));
        remark(`Connected with ${nameOf(peer)}`);
        show(peer);
    });
    on("left", ({peer, reason}) => {
        // If the line is closed it is us who have gone.
        if (client.status !== "closed") remark(`${nameOf(peer)} has gone (${reason})`);
        rows.get(peer)?.remove();
        rows.delete(peer);
        $("alone").hidden = rows.size > 0;
    });
    on("error", ({code, message, error}) => {
        refusal = code ? `${message} (${code})` : String(error);
        $("trouble").textContent = refusal;
    });
    on("closed", ({code, reason}) => {
        client.close(); // A connection would stay; but the others have been told that we left.
        showRoom(false);
        if (code !== null) remark(code === 1000 ? "You have left" : "You are out of the room");
        $("trouble").textContent = code === 1000 ? "" : (ENDS[code] ?? (refusal || reason));
    });
    showStatus(client);
    $("text").focus();
}

function showRoom(isIn) {
    $("entrance").hidden = isIn;
    $("inside").hidden = $("say").hidden = !isIn;
}

function showStatus({status}) {
    $("status").textContent = status;
    $("status").className = status;
    $("hint").hidden = status !== "away";
    $("alone").hidden = status !== "joined" || rows.size > 0;
}

function on(type, listener) {
    client.addEventListener(type, ({detail}) => listener(detail));
}

function say(text) {
    if (!text) return;
    const channels = client.peers.map((peer) => peer.channels.get("chat"));
    const open = channels.filter((channel) => channel?.readyState === "open");
    for (const channel of open) channel.send(text);
    write("You", text);
    if (!open.length) remark("Nobody has heard that: there is no connection yet");
}

function nameOf(peer) {
    const name = peer.metadata?.name; // Others may have said anything.
    return typeof name === "string" ? name.slice(0, LONGEST_NAME) : peer.id;
}

function addRow(peer) {
    const row = $("peers").insertRow();
    for (let cell = 0; cell < 4; cell += 1) row.insertCell();
    rows.set(peer, row);
    $("alone").hidden = true;
    show(peer);
}

async function show(peer, note = "") {
    const row = rows.get(peer);
    if (!row) return;
    const [name, state, path, comment] = row.cells;
    name.textContent = nameOf(peer);
    state.textContent = peer.state;
    state.className = peer.state;
    comment.textContent = note || (peer.suspended ? "its line to the server is broken" : "");
    if (note) comment.append(" ", retryButton(peer));
    const found = peer.state === "connected" ? await peer.path() : null;
    const isStill = found && peer.state === "connected";
    path.textContent = isStill ? `${found.local} - ${found.remote} (${found.protocol})` : "";
}

function retryButton(peer) {
    const button = document.createElement("button");
    button.textContent = "Try again";
    button.addEventListener("click", () => {
        peer.restart();
        show(peer);
    });
    return button;
}

function write(name, text) {
    const who = document.createElement("b");
    who.textContent = `${name}: `;
    addLine(who, text);
}

/** Say what has happened, as nobody's words. */
function remark(text) {
    addLine(text).className = "note";
}

function addLine(...content) {
    const line = document.createElement("li");
    line.append(...content);
    $("log").append(line);
    line.scrollIntoView({block: "nearest"});
    return line;
}
