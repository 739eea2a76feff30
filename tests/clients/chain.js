"use strict";

// Starts COUNT development chains that are alike to the last hash, each on a port from the kernel, and
// prints their URLs as one line of JSON. It ends when its stdin does, so that it never outlives its test.
// Usage: node chain.js COUNT

const ganache = require("ganache");

const options = {
  logging: { quiet: true },
  chain: { chainId: 1337, networkId: 1337, time: new Date("2024-01-01T00:00:00Z") },
  // Blocks are a second apart whenever they are mined: the same calls make the same hashes.
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
