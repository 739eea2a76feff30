"use strict";

// ethers against RPC_URL: what a program with it sees, in ethers' own types. Its provider puts calls
// that are made at once into one batch.

const ethers = require("ethers");
const { counter, headers, keys, refusal, tell, url } = require("./setting.js");

function connect(options) {
  const request = new ethers.FetchRequest(url);
  for (const [name, value] of Object.entries(headers)) request.setHeader(name, value);
  return new ethers.JsonRpcProvider(request, undefined, { polling: true, cacheTimeout: -1, ...options });
}

/** A receipt, block or log without the provider that it carries. */
const plain = (value) => (Array.isArray(value) ? value.map((each) => each.toJSON()) : value.toJSON());

async function reads(seen, node, bob) {
  seen["chain id"] = (await node.getNetwork()).chainId;
  seen["block number"] = await node.getBlockNumber();
  seen["balance"] = await node.getBalance(bob.address);
  seen["gas price"] = (await node.getFeeData()).gasPrice;
  seen["genesis"] = plain(await node.getBlock(0));
}

async function contract(seen, node, alice, bob) {
  const factory = new ethers.ContractFactory(counter.abi, counter.bytecode, alice);
  const it = await (await factory.deploy()).waitForDeployment();
  seen["deployed"] = plain(await it.deploymentTransaction().wait());
  const sent = await it.increment(5n);
  seen["receipt"] = plain(await sent.wait());
  seen["transaction"] = plain(await node.getTransaction(sent.hash));
  seen["value"] = await it.value();
  const logs = await it.queryFilter(it.filters.Counted, 0);
  seen["logs"] = logs.map((log) => ({ name: log.eventName, args: [...log.args], ...plain(log) }));
  seen["block with hashes"] = plain(await node.getBlock(2));
  const full = await node.getBlock(2, true);
  seen["block with transactions"] = full.prefetchedTransactions.map((transaction) => transaction.hash);
  const transfer = await alice.sendTransaction({ to: bob.address, value: 1n });
  seen["transfer"] = (await transfer.wait()).status;
  seen["nonce"] = await alice.getNonce();
  return it;
}

async function errors(seen, node, it, bob) {
  const denied = await refusal(it.refuse());
  seen["refuse"] = { type: denied.code, error: denied.revert.name, args: [...denied.revert.args] };
  const words = await refusal(it.refuseInWords());
  seen["refuseInWords"] = { type: words.code, reason: words.reason };
  const unknown = await refusal(node.send("eth_noSuchThing", []));
  seen["unknown method"] = { type: unknown.code, code: unknown.info.error.code, details: unknown.info.error.message };
  seen["no such transaction"] = await node.getTransaction(`0x${"11".repeat(32)}`);
  const poor = new ethers.Wallet(keys.poor);
  const raw = await poor.signTransaction({ chainId: 1337, type: 2, nonce: 0, gasLimit: 21000, to: bob.address, value: 1, maxFeePerGas: 10n ** 10n, maxPriorityFeePerGas: 0 });
  const broke = await refusal(node.broadcastTransaction(raw));
  seen["no funds"] = { type: broke.code, message: broke.shortMessage };
}

async function batches(seen, bob) {
  const node = connect({ batchStallTime: 20 });
  const network = await node.getNetwork();
  const sizes = [];
  node.on("debug", ({ action, payload }) => {
    if (action === "sendRpcPayload") sizes.push(payload.length);
  });
  const asked = Array.from({ length: 20 }, (_, i) => i % 4).map((kind) =>
    [() => network.chainId, () => node.send("eth_blockNumber", []), () => node.send("eth_getBalance", [bob.address, "latest"]), () => node.send("eth_getBlockByNumber", ["0x1", false])][kind](),
  );
  const answers = await Promise.allSettled([...asked, node.send("eth_noSuchThing", [])]);
  seen["batch"] = answers.map((answer) => answer.value ?? answer.reason.code);
  seen["batch sizes"] = sizes;
  node.destroy();
}

async function main() {
  const seen = {};
  const node = connect({ pollingInterval: 20 });
  const [alice, bob] = [keys.alice, keys.bob].map((key) => new ethers.Wallet(key, node));
  await reads(seen, node, bob);
  const it = await contract(seen, node, alice, bob);
  await errors(seen, node, it, bob);
  await batches(seen, bob);
  node.destroy();
  tell(seen);
}

main();
