// The PeerJS server as its documentation embeds it, without the line in a log for each client.
// Usage: node peerjs.cjs PORT
"use strict";
const { PeerServer } = require("peer");

const server = PeerServer({ host: "127.0.0.1", port: Number(process.argv[2]), path: "/" });
// Without a listener one message that is no JSON ends the process.
server.on("error", (error) => console.error(error));
