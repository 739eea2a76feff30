"use strict";

// An HTTP server whose /events is an event stream: comments, and events with consecutive ids every 20 ms, which
// continue after Last-Event-ID. Each stream ends after five events. It prints its URL as JSON and exits when its
// stdin closes.
// Usage: node events-server.js

const http = require("http");

const server = http.createServer((request, response) => {
  let number = Number(request.headers["last-event-id"] ?? 0);
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
  response.write("retry: 10\r\n: hello\r\n\r\n");
  let left = 5;
  const timer = setInterval(() => {
    number += 1;
    left -= 1;
    response.write(`id: ${number}\r\nevent: tick\r\ndata: {"at":\r\ndata: ${Date.now()}}\r\n\r\n`);
    if (left === 0) response.end();
  }, 20);
  response.on("close", () => clearInterval(timer));
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify([`http://127.0.0.1:${server.address().port}`])));
process.stdin.on("end", () => process.exit(0)).resume();
