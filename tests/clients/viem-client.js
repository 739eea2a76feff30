"use strict";

// Runs viem against RPC_URL and prints the results, in viem's own types.

const viem = require("viem");
const { privateKeyToAccount } = require("viem/accounts");
const { counter, headers, keys, refusal, print, url } = require("./shared.js");

const chain = viem.defineChain({
  id: 1337,
  name: "dev",
  nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 },
  rpcUrls: { default: { http: [url] } },
});
const account = privateKeyToAccount(keys.alice);
const bob = privateKeyToAccount(keys.bob).address;

/** A client that sends one call per request, or batches concurrent calls. */
function client(batch, onRequest) {
  // Without retries, so that failures show.
  const options = { batch, fetchOptions: { headers }, retryCount: 0, onFetchRequest: onRequest };
  return viem.createPublicClient({ chain, transport: viem.http(url, options), pollingInterval: 20 });
}

async function reads(results, node) {
  results["chain id"] = await node.getChainId();
  results["block number"] = await node.getBlockNumber();
  results["balance"] = await node.getBalance({ address: bob });
  results["gas price"] = await node.getGasPrice();
  results["genesis"] = await node.getBlock({ blockNumber: 0n });
}

async function contract(results, node) {
  const wallet = viem.createWalletClient({ account, chain, transport: viem.http(url, { fetchOptions: { headers }, retryCount: 0 }) });
  const deployed = await node.waitForTransactionReceipt({ hash: await wallet.deployContract(counter) });
  results["deployed"] = deployed;
  const instance = { address: deployed.contractAddress, abi: counter.abi };
  const hash = await wallet.writeContract({ ...instance, functionName: "increment", args: [5n] });
  results["receipt"] = await node.waitForTransactionReceipt({ hash });
  results["transaction"] = await node.getTransaction({ hash });
  results["value"] = await node.readContract({ ...instance, functionName: "value" });
  results["logs"] = await node.getContractEvents({ ...instance, eventName: "Counted", fromBlock: 0n });
  results["block with hashes"] = await node.getBlock({ blockNumber: 2n });
  results["block with transactions"] = await node.getBlock({ blockNumber: 2n, includeTransactions: true });
  const sent = await wallet.sendTransaction({ to: bob, value: 1n });
  results["transfer"] = (await node.waitForTransactionReceipt({ hash: sent })).status;
  results["nonce"] = await node.getTransactionCount({ address: account.address });
  return instance;
}

async function errors(results, node, instance) {
  for (const functionName of ["refuse", "refuseInWords"]) {
    const refused = await refusal(node.readContract({ ...instance, functionName }));
    // This node gives reverts a code that viem does not recognize as one, so the data is decoded here.
    const { code, data } = refused.walk((error) => error instanceof viem.RpcRequestError);
    const { errorName, args } = viem.decodeErrorResult({ abi: counter.abi, data });
    results[functionName] = { type: refused.name, code, error: errorName, args };
  }
  const unknown = await refusal(node.request({ method: "eth_noSuchThing" }));
  results["unknown method"] = { type: unknown.name, code: unknown.code, details: unknown.details };
  const missing = await refusal(node.getTransaction({ hash: `0x${"11".repeat(32)}` }));
  results["no such transaction"] = missing.name;
  const poor = privateKeyToAccount(keys.poor);
  const raw = await poor.signTransaction({ chainId: 1337, type: "eip1559", nonce: 0, gas: 21000n, to: bob, value: 1n, maxFeePerGas: 10n ** 10n });
  const failed = await refusal(node.sendRawTransaction({ serializedTransaction: raw }));
  results["no funds"] = { type: failed.name, code: failed.walk((error) => error.code !== undefined).code };
}

async function batches(results) {
  const sizes = [];
  const counted = (_, init) => void sizes.push(JSON.parse(init.body).length);
  const node = client({ wait: 5 }, counted);
  const calls = Array.from({ length: 20 }, (_, i) => i % 4).map((kind) =>
    [() => node.getChainId(), () => node.getBlockNumber(), () => node.getBalance({ address: bob }), () => node.getBlock({ blockNumber: 1n })][kind](),
  );
  const answers = await Promise.allSettled([...calls, node.request({ method: "eth_noSuchThing" })]);
  results["batch"] = answers.map((answer) => answer.value ?? answer.reason.name);
  results["batch sizes"] = sizes;
}

async function main() {
  const results = {};
  const node = client(false);
  await reads(results, node);
  const instance = await contract(results, node);
  await errors(results, node, instance);
  await batches(results);
  print(results);
}

main();
