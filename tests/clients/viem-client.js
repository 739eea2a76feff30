"use strict";

// viem against RPC_URL: what a program with it sees, in viem's own types.

const viem = require("viem");
const { privateKeyToAccount } = require("viem/accounts");
const { counter, headers, keys, refusal, tell, url } = require("./setting.js");

const chain = viem.defineChain({
  id: 1337,
  name: "dev",
  nativeCurrency: { name: "Ether", symbol: "ETH", decimals: 18 },
  rpcUrls: { default: { http: [url] } },
});
const account = privateKeyToAccount(keys.alice);
const bob = privateKeyToAccount(keys.bob).address;

/** A client of its own for each purpose: one call to a request, or a batch of whatever is asked at once. */
function client(batch, onRequest) {
  // Without retries: a failure must be seen.
  const options = { batch, fetchOptions: { headers }, retryCount: 0, onFetchRequest: onRequest };
  return viem.createPublicClient({ chain, transport: viem.http(url, options), pollingInterval: 20 });
}

async function reads(seen, node) {
  seen["chain id"] = await node.getChainId();
  seen["block number"] = await node.getBlockNumber();
  seen["balance"] = await node.getBalance({ address: bob });
  seen["gas price"] = await node.getGasPrice();
  seen["genesis"] = await node.getBlock({ blockNumber: 0n });
}

async function contract(seen, node) {
  const wallet = viem.createWalletClient({ account, chain, transport: viem.http(url, { fetchOptions: { headers }, retryCount: 0 }) });
  const deployed = await node.waitForTransactionReceipt({ hash: await wallet.deployContract(counter) });
  seen["deployed"] = deployed;
  const it = { address: deployed.contractAddress, abi: counter.abi };
  const hash = await wallet.writeContract({ ...it, functionName: "increment", args: [5n] });
  seen["receipt"] = await node.waitForTransactionReceipt({ hash });
  seen["transaction"] = await node.getTransaction({ hash });
  seen["value"] = await node.readContract({ ...it, functionName: "value" });
  seen["logs"] = await node.getContractEvents({ ...it, eventName: "Counted", fromBlock: 0n });
  seen["block with hashes"] = await node.getBlock({ blockNumber: 2n });
  seen["block with transactions"] = await node.getBlock({ blockNumber: 2n, includeTransactions: true });
  const sent = await wallet.sendTransaction({ to: bob, value: 1n });
  seen["transfer"] = (await node.waitForTransactionReceipt({ hash: sent })).status;
  seen["nonce"] = await node.getTransactionCount({ address: account.address });
  return it;
}

async function errors(seen, node, it) {
  for (const functionName of ["refuse", "refuseInWords"]) {
    const refused = await refusal(node.readContract({ ...it, functionName }));
    // This node gives reverts a code that viem takes for no revert; their data is all there.
    const { code, data } = refused.walk((error) => error instanceof viem.RpcRequestError);
    const { errorName, args } = viem.decodeErrorResult({ abi: counter.abi, data });
    seen[functionName] = { type: refused.name, code, error: errorName, args };
  }
  const unknown = await refusal(node.request({ method: "eth_noSuchThing" }));
  seen["unknown method"] = { type: unknown.name, code: unknown.code, details: unknown.details };
  const missing = await refusal(node.getTransaction({ hash: `0x${"11".repeat(32)}` }));
  seen["no such transaction"] = missing.name;
  const poor = privateKeyToAccount(keys.poor);
  const raw = await poor.signTransaction({ chainId: 1337, type: "eip1559", nonce: 0, gas: 21000n, to: bob, value: 1n, maxFeePerGas: 10n ** 10n });
  const broke = await refusal(node.sendRawTransaction({ serializedTransaction: raw }));
  seen["no funds"] = { type: broke.name, code: broke.walk((error) => error.code !== undefined).code };
}

async function batches(seen) {
  const sizes = [];
  const counted = (_, init) => void sizes.push(JSON.parse(init.body).length);
  const node = client({ wait: 5 }, counted);
  const asked = Array.from({ length: 20 }, (_, i) => i % 4).map((kind) =>
    [() => node.getChainId(), () => node.getBlockNumber(), () => node.getBalance({ address: bob }), () => node.getBlock({ blockNumber: 1n })][kind](),
  );
  const answers = await Promise.allSettled([...asked, node.request({ method: "eth_noSuchThing" })]);
  seen["batch"] = answers.map((answer) => answer.value ?? answer.reason.name);
  seen["batch sizes"] = sizes;
}

async function main() {
  const seen = {};
  const node = client(false);
  await reads(seen, node);
  const it = await contract(seen, node);
  await errors(seen, node, it);
  await batches(seen);
  tell(seen);
}

main();
