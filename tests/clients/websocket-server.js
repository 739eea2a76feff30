"use strict";

// A WebSocket server on the library "ws", with compression for clients that ask for it, which answers each
// JSON-RPC call with its parameters and sends a ping now and then. eth_subscribe is answered with an id and
// followed by the header of a block every 100 ms. It prints its URL as JSON and exits when its stdin closes.
// Usage: node websocket-server.js

const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: true });
server.on("listening", () => console.log(JSON.stringify([`ws://127.0.0.1:${server.address().port}`])));
const hex = (number) => "0x" + number.toString(16);
server.on("connection", (socket) => {
  let calls = 0;
  let timer;
  socket.on("message", (text) => {
    const { id, method, params } = JSON.parse(text);
    const say = (message) => socket.send(JSON.stringify({ jsonrpc: "2.0", ...message }));
    if (method === "eth_subscribe") {
      const subscription = hex(Math.floor(Math.random() * 2 ** 50));
      say({ id, result: subscription });
      let number = 7;
      timer = setInterval(() => {
        const timestamp = hex(Math.floor(Date.now() / 1000));
        const result = { number: hex((number += 1)), hash: hex(number * 1000), timestamp };
        say({ method: "eth_subscription", params: { subscription, result } });
      }, 100);
      return;
    }
    if (method === "eth_unsubscribe") clearInterval(timer);
    say({ id, result: params ?? null });
    calls += 1;
    if (calls % 10 === 0) socket.ping("are you there?");
  });
  socket.on("close", () => clearInterval(timer));
});
process.stdin.on("end", () => process.exit(0)).resume();
