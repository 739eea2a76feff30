"""web3.py against RPC_URL: what a program with it sees, in web3.py's own types."""

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
# The first two accounts of the development chain's mnemonic; the last one owns nothing.
ALICE = Account.from_key("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
BOB = Account.from_key("0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d")
POOR = Account.from_key("0x" + "00" * 31 + "01")


def connect() -> Web3:
    """Without retries: a failure must be seen."""
    headers = {"Content-Type": "application/json", **json.loads(os.environ.get("RPC_HEADERS", "{}"))}
    provider = Web3.HTTPProvider(
        os.environ["RPC_URL"], request_kwargs={"headers": headers}, exception_retry_configuration=None
    )
    return Web3(provider)


def reads(seen: dict, w3: Web3) -> None:
    seen["chain id"] = w3.eth.chain_id
    seen["block number"] = w3.eth.block_number
    seen["balance"] = w3.eth.get_balance(BOB.address)
    seen["gas price"] = w3.eth.gas_price
    seen["genesis"] = w3.eth.get_block(0)


def send(w3: Web3, transaction: dict):
    """Signs here, sends, and waits for the receipt."""
    signed = ALICE.sign_transaction(transaction)
    return w3.eth.wait_for_transaction_receipt(
        w3.eth.send_raw_transaction(signed.raw_transaction), poll_latency=0.02
    )


def contract(seen: dict, w3: Web3):
    def sender() -> dict:
        return {"from": ALICE.address, "nonce": w3.eth.get_transaction_count(ALICE.address)}

    made = w3.eth.contract(abi=COUNTER["abi"], bytecode=COUNTER["bytecode"])
    seen["deployed"] = send(w3, made.constructor().build_transaction(sender()))
    it = w3.eth.contract(address=seen["deployed"]["contractAddress"], abi=COUNTER["abi"])
    seen["receipt"] = send(w3, it.functions.increment(5).build_transaction(sender()))
    seen["transaction"] = w3.eth.get_transaction(seen["receipt"]["transactionHash"])
    seen["value"] = it.functions.value().call()
    seen["logs"] = it.events.Counted.get_logs(from_block=0)
    seen["block with hashes"] = w3.eth.get_block(2)
    seen["block with transactions"] = w3.eth.get_block(2, full_transactions=True)
    transfer = {**sender(), "to": BOB.address, "value": 1, "gas": 21000, "chainId": 1337,
                "gasPrice": w3.eth.gas_price}
    seen["transfer"] = send(w3, transfer)["status"]
    seen["nonce"] = w3.eth.get_transaction_count(ALICE.address)
    return it


def refusal(kind: type[Exception], call):
    """What a call is refused with; one that succeeds, or fails in another way, is the mistake here."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"this call should have been refused with {kind.__name__}")


def errors(seen: dict, w3: Web3, it) -> None:
    denied = refusal(ContractCustomError, it.functions.refuse().call)
    seen["refuse"] = {"type": type(denied).__name__, "data": denied.data}
    words = refusal(Web3RPCError, it.functions.refuseInWords().call)
    error = words.rpc_response["error"]
    seen["refuseInWords"] = {"type": type(words).__name__, "code": error["code"], "data": error["data"]}
    unknown = refusal(Web3RPCError, lambda: w3.manager.request_blocking("eth_noSuchThing", []))
    error = unknown.rpc_response["error"]
    seen["unknown method"] = {
        "type": type(unknown).__name__, "code": error["code"], "details": error["message"]
    }
    missing = refusal(TransactionNotFound, lambda: w3.eth.get_transaction("0x" + "11" * 32))
    seen["no such transaction"] = type(missing).__name__
    raw = POOR.sign_transaction({"chainId": 1337, "nonce": 0, "gas": 21000, "to": BOB.address,
                                 "value": 1, "gasPrice": 10**10}).raw_transaction
    broke = refusal(Web3RPCError, lambda: w3.eth.send_raw_transaction(raw))
    seen["no funds"] = {
        "type": type(broke).__name__, "message": broke.rpc_response["error"]["message"]
    }


def batches(seen: dict, w3: Web3) -> None:
    with w3.batch_requests() as batch:
        for _ in range(5):
            batch.add(w3.eth.get_balance(BOB.address))
            batch.add(w3.eth.get_block(1))
            batch.add(w3.eth.get_block(2, full_transactions=True))
            batch.add(w3.eth.get_transaction_count(ALICE.address))
        seen["batch"] = batch.execute()


def main() -> None:
    w3 = connect()
    seen: dict = {}
    reads(seen, w3)
    it = contract(seen, w3)
    errors(seen, w3, it)
    batches(seen, w3)
    print(Web3.to_json(seen))


main()
