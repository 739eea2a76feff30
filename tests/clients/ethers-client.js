"use strict";

// Runs ethers against RPC_URL and prints the results, in ethers' own types. Its provider batches
// concurrent calls.

const ethers = require("ethers");
const { counter, headers, keys, refusal, print, url } = require("./shared.js");

function connect(options) {
  const request = new ethers.FetchRequest(url);
  for (const [name, value] of Object.entries(headers)) request.setHeader(name, value);
  return new ethers.JsonRpcProvider(request, undefined, { polling: true, cacheTimeout: -1, ...options });
}

/** A receipt, block or log without its reference to the provider. */
const plain = (value) => (Array.isArray(value) ? value.map((each) => each.toJSON()) : value.toJSON());

async function reads(results, node, bob) {
  results["chain id"] = (await node.getNetwork()).chainId;
  results["block number"] = await node.getBlockNumber();
  results["balance"] = await node.getBalance(bob.address);
  results["gas price"] = (await node.getFeeData()).gasPrice;
  results["genesis"] = plain(await node.getBlock(0));
}

async function contract(results, node, alice, bob) {
  const factory = new ethers.ContractFactory(counter.abi, counter.bytecode, alice);
  const instance = await (await factory.deploy()).waitForDeployment();
  results["deployed"] = plain(await instance.deploymentTransaction().wait());
  const sent = await instance.increment(5n);
  results["receipt"] = plain(await sent.wait());
  results["transaction"] = plain(await node.getTransaction(sent.hash));
  results["value"] = await instance.value();
  const logs = await instance.queryFilter(instance.filters.Counted, 0);
  results["logs"] = logs.map((log) => ({ name: log.eventName, args: [...log.args], ...plain(log) }));
  results["block with hashes"] = plain(await node.getBlock(2));
  const full = await node.getBlock(2, true);
  results["block with transactions"] = full.prefetchedTransactions.map((transaction) => transaction.hash);
  const transfer = await alice.sendTransaction({ to: bob.address, value: 1n });
  results["transfer"] = (await transfer.wait()).status;
  results["nonce"] = await alice.getNonce();
  return instance;
}

async function errors(results, node, instance, bob) {
  const denied = await refusal(instance.refuse());
  results["refuse"] = { type: denied.code, error: denied.revert.name, args: [...denied.revert.args] };
  const words = await refusal(instance.refuseInWords());
  results["refuseInWords"] = { type: words.code, reason: words.reason };
  const unknown = await refusal(node.send("eth_noSuchThing", []));
  results["unknown method"] = { type: unknown.code, code: unknown.info.error.code, details: unknown.info.error.message };
  results["no such transaction"] = await node.getTransaction(`0x${"11".repeat(32)}`);
  const poor = new ethers.Wallet(keys.poor);
  const raw = await poor.signTransaction({ chainId: 1337, type: 2, nonce: 0, gasLimit: 21000, to: bob.address, value: 1, maxFeePerGas: 10n ** 10n, maxPriorityFeePerGas: 0 });
  const failed = await refusal(node.broadcastTransaction(raw));
  results["no funds"] = { type: failed.code, message: failed.shortMessage };
}

async function batches(results, bob) {
  const node = connect({ batchStallTime: 20 });
  const network = await node.getNetwork();
  const sizes = [];
  node.on("debug", ({ action, payload }) => {
    if (action === "sendRpcPayload") sizes.push(payload.length);
  });
  const calls = Array.from({ length: 20 }, (_, i) => i % 4).map((kind) =>
    [() => network.chainId, () => node.send("eth_blockNumber", []), () => node.send("eth_getBalance", [bob.address, "latest"]), () => node.send("eth_getBlockByNumber", ["0x1", false])][kind](),
  );
  const answers = await Promise.allSettled([...calls, node.send("eth_noSuchThing", [])]);
  results["batch"] = answers.map((answer) => answer.value ?? answer.reason.code);
  results["batch sizes"] = sizes;
  node.destroy();
}

async function main() {
  const results = {};
  const node = connect({ pollingInterval: 20 });
  const [alice, bob] = [keys.alice, keys.bob].map((key) => new ethers.Wallet(key, node));
  await reads(results, node, bob);
  const instance = await contract(results, node, alice, bob);
  await errors(results, node, instance, bob);
  await batches(results, bob);
  node.destroy();
  print(results);
}

main();
