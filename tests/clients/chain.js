"use strict";

// Starts COUNT development chains with identical hashes, each on a free port, and prints their URLs as
// one line of JSON. It exits when its stdin closes, so that it never outlives its test.
// Usage: node chain.js COUNT

const ganache = require("ganache");

const options = {
  logging: { quiet: true },
  chain: { chainId: 1337, networkId: 1337, time: new Date("2024-01-01T00:00:00Z") },
  // Block timestamps are one second apart whenever they are mined, so that equal calls give equal hashes.
  miner: { timestampIncrement: 1 },
  wallet: { mnemonic: "test test test test test test test test test test test junk" },
};

async function start() {
  const server = ganache.server(options);
  await server.listen(0, "127.0.0.1");
  return `http://127.0.0.1:${server.address().port}`;
}

async function main() {
  const urls = await Promise.all(Array.from({ length: Number(process.argv[2]) }, start));
  console.log(JSON.stringify(urls));
  process.stdin.on("end", () => process.exit(0)).resume();
}

main();
