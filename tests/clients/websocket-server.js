"use strict";

// A WebSocket server on the library "ws", with compression for clients that ask for it, which answers each
// JSON-RPC call with its parameters and sends a ping now and then. It prints its URL as JSON and exits when
// its stdin closes.
// Usage: node websocket-server.js

const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: true });
server.on("listening", () => console.log(JSON.stringify([`ws://127.0.0.1:${server.address().port}`])));
server.on("connection", (socket) => {
  let calls = 0;
  socket.on("message", (text) => {
    const { id, params } = JSON.parse(text);
    socket.send(JSON.stringify({ jsonrpc: "2.0", id, result: params ?? null }));
    calls += 1;
    if (calls % 10 === 0) socket.ping("are you there?");
  });
});
process.stdin.on("end", () => process.exit(0)).resume();
