"""Runs web3.py against RPC_URL and prints the results, in web3.py's own types."""

import json
import os
from pathlib import Path

from eth_account import Account
from web3 import Web3
from web3.exceptions import (
    ContractCustomError,
    TransactionNotFound,
    Web3RPCError,
)

COUNTER = json.loads((Path(__file__).parent / "counter.json").read_text())
# The first two accounts of the development chain's mnemonic; the last one has no funds.
ALICE = Account.from_key("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
BOB = Account.from_key("0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
POOR = Account.from_key("0x" + "00" * 31 + "01")


def connect() -> Web3:
    """Connects without retries, so that failures show."""
    headers = {"Content-Type": "application/json", **json.loads(os.environ.get("RPC_HEADERS", "{}"))}
    provider = Web3.HTTPProvider(
        os.environ["RPC_URL"], request_kwargs={"headers": headers}, exception_retry_configuration=None
    )
    return Web3(provider)


def reads(results: dict, w3: Web3) -> None:
    results["chain id"] = w3.eth.chain_id
    results["block number"] = w3.eth.block_number
    results["balance"] = w3.eth.get_balance(BOB.address)
    results["gas price"] = w3.eth.gas_price
    results["genesis"] = w3.eth.get_block(0)


def send(w3: Web3, transaction: dict):
    """Signs locally, sends, and waits for the receipt."""
    signed = ALICE.sign_transaction(transaction)
    return w3.eth.wait_for_transaction_receipt(
        w3.eth.send_raw_transaction(signed.raw_transaction), poll_latency=0.02
    )


def contract(results: dict, w3: Web3):
    def sender() -> dict:
        return {"from": ALICE.address, "nonce": w3.eth.get_transaction_count(ALICE.address)}

    factory = w3.eth.contract(abi=COUNTER["abi"], bytecode=COUNTER["bytecode"])
    results["deployed"] = send(w3, factory.constructor().build_transaction(sender()))
    instance = w3.eth.contract(address=results["deployed"]["contractAddress"], abi=COUNTER["abi"])
    results["receipt"] = send(w3, instance.functions.increment(5).build_transaction(sender()))
    results["transaction"] = w3.eth.get_transaction(results["receipt"]["transactionHash"])
    results["value"] = instance.functions.value().call()
    results["logs"] = instance.events.Counted.get_logs(from_block=0)
    results["block with hashes"] = w3.eth.get_block(2)
    results["block with transactions"] = w3.eth.get_block(2, full_transactions=True)
    transfer = {**sender(), "to": BOB.address, "value": 1, "gas": 21000, "chainId": 1337,
                "gasPrice": w3.eth.gas_price}
    results["transfer"] = send(w3, transfer)["status"]
    results["nonce"] = w3.eth.get_transaction_count(ALICE.address)
    return instance


def refusal(kind: type[Exception], call):
    """Returns the error of a call that must fail in this way."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"this call should have failed with {kind.__name__}")


def errors(results: dict, w3: Web3, instance) -> None:
    denied = refusal(ContractCustomError, instance.functions.refuse().call)
    results["refuse"] = {"type": type(denied).__name__, "data": denied.data}
    words = refusal(Web3RPCError, instance.functions.refuseInWords().call)
    error = words.rpc_response["error"]
    results["refuseInWords"] = {"type": type(words).__name__, "code": error["code"], "data": error["data"]}
    unknown = refusal(Web3RPCError, lambda: w3.manager.request_blocking("eth_noSuchThing", []))
    error = unknown.rpc_response["error"]
    results["unknown method"] = {
        "type": type(unknown).__name__, "code": error["code"], "details": error["message"]
    }
    missing = refusal(TransactionNotFound, lambda: w3.eth.get_transaction("0x" + "11" * 32))
    results["no such transaction"] = type(missing).__name__
    raw = POOR.sign_transaction({"chainId": 1337, "nonce": 0, "gas": 21000, "to": BOB.address,
                                 "value": 1, "gasPrice": 10**10}).raw_transaction
    failed = refusal(Web3RPCError, lambda: w3.eth.send_raw_transaction(raw))
    results["no funds"] = {
        "type": type(failed).__name__, "message": failed.rpc_response["error"]["message"]
    }


def batches(results: dict, w3: Web3) -> None:
    with w3.batch_requests() as batch:
        for _ in range(5):
            batch.add(w3.eth.get_balance(BOB.address))
            batch.add(w3.eth.get_block(1))
            batch.add(w3.eth.get_block(2, full_transactions=True))
            batch.add(w3.eth.get_transaction_count(ALICE.address))
        results["batch"] = batch.execute()


def main() -> None:
    w3 = connect()
    results: dict = {}
    reads(results, w3)
    instance = contract(results, w3)
    errors(results, w3, instance)
    batches(results, w3)
    print(Web3.to_json(results))


main()
