"use strict";

// Setup and output shared by the JavaScript clients.

const counter = require("./counter.json");

const url = process.env.RPC_URL;
const headers = JSON.parse(process.env.RPC_HEADERS ?? "{}");

// The first two accounts of the development chain's mnemonic; the last one has no funds.
const keys = {
  alice: "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
  bob: "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
  poor: "0x0000000000000000000000000000000000000000000000000000000000000001",
};

/** Returns the error of a call that must fail; throws if it succeeds. */
async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("this call should have failed");
}

/** Prints the results as one line of JSON. */
function print(results) {
  const plain = (_, value) => (typeof value === "bigint" ? value.toString() : value);
  console.log(JSON.stringify(results, plain));
}

module.exports = { counter, headers, keys, refusal, print, url };
