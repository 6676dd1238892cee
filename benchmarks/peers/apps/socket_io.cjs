// Socket.IO on Node's http server, next to a path for publishers and one for readiness.
// Usage: node socket_io.cjs PORT
"use strict";
const { createServer } = require("node:http");
const { Server } = require("socket.io");

const server = createServer((request, response) => {
  if (request.url !== "/publish") {
    response.writeHead(request.url === "/ready" ? 200 : 404, { "Content-Length": 0 }).end();
    return;
  }
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => {
    io.emit("bench", JSON.parse(Buffer.concat(pieces)));
    response.writeHead(202, { "Content-Length": 0 }).end();
  });
});

const io = new Server(server, {
  // The load client speaks WebSocket from the start, which is also the fastest way.
  transports: ["websocket"],
  // It does not answer pings, so none comes while it measures.
  pingInterval: 3600e3,
  pingTimeout: 3600e3,
  // Nobody downloads the browser's library here.
  serveClient: false,
});
// The first request of each connection is kept in memory otherwise; the documentation advises this.
io.engine.on("connection", (socket) => {
  socket.request = null;
});

server.keepAliveTimeout = 3600e3; // publishers keep their connections, as they do at the others
// A backlog for many clients that come at once, like Triocast's.
server.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096 });
