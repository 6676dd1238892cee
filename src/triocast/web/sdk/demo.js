// A chat over data channels, and how each pair of peers is connected.
import {SignalingClient} from "../sdk/signaling.js";

const $ = (id) => document.getElementById(id);
const rows = new Map();
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
    $("entrance").hidden = true;
    $("inside").hidden = false;
    $("where").textContent = room;
    $("trouble").textContent = "";
    client = new SignalingClient("signaling", {
        room,
        token,
        metadata: {name},
        dataChannels: {chat: {}},
    });
    on("status", ({status}) => ($("status").textContent = status));
    on("peer", ({peer}) => addRow(peer));
    on("state", ({peer}) => show(peer));
    on("presence", ({peer}) => show(peer));
    on("failed", ({peer, reason, errors}) => show(peer, [reason, ...errors].join("; ")));
    on("channel", ({peer, channel}) => {
        channel.addEventListener("message", ({data}) => write(nameOf(peer), data));
        show(peer);
    });
    on("left", ({peer, reason}) => {
        write(nameOf(peer), `(gone: ${reason})`);
        rows.get(peer)?.remove();
        rows.delete(peer);
    });
    on("error", ({code, message}) => code && ($("trouble").textContent = `${code}: ${message}`));
    on("closed", ({reason}) => {
        $("entrance").hidden = false;
        if (reason !== "left") $("trouble").textContent = `The room is closed to you: ${reason}`;
    });
}

function on(type, listener) {
    client.addEventListener(type, ({detail}) => listener(detail));
}

function say(text) {
    if (!text) return;
    for (const peer of client.peers) {
        const channel = peer.channels.get("chat");
        if (channel?.readyState === "open") channel.send(text);
    }
    write("You", text);
}

function nameOf(peer) {
    return String(peer.metadata?.name ?? peer.id);
}

function addRow(peer) {
    const row = $("peers").insertRow();
    for (let cell = 0; cell < 4; cell += 1) row.insertCell();
    rows.set(peer, row);
    show(peer);
}

async function show(peer, note = "") {
    const row = rows.get(peer);
    if (!row) return;
    const [name, state, path, remark] = row.cells;
    name.textContent = nameOf(peer);
    state.textContent = peer.state;
    state.className = peer.state;
    remark.textContent = note || (peer.suspended ? "its line to the server is broken" : "");
    const found = peer.state === "connected" ? await peer.path() : null;
    path.textContent = found ? `${found.local} - ${found.remote} (${found.protocol})` : "";
}

function write(name, text) {
    const line = document.createElement("li");
    const who = document.createElement("b");
    who.textContent = `${name}: `;
    line.append(who, text);
    $("log").append(line);
    line.scrollIntoView({block: "nearest"});
}
