"""A WebSocket server on the library "websockets", with compression for clients that ask for it, which answers
each JSON-RPC call with its parameters, in fragments. eth_subscribe is answered with an id and followed by the
header of a block every 100 ms. It prints its URL as JSON and exits when its stdin closes.

Usage: python websocket_server.py
"""

import asyncio
import json
import sys
import time

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def notify(socket, subscription):
    number = 7
    try:
        while True:
            await asyncio.sleep(0.1)
            number += 1
            head = {"number": hex(number), "hash": hex(number * 1000), "timestamp": hex(int(time.time()))}
            params = {"subscription": subscription, "result": head}
            text = json.dumps({"jsonrpc": "2.0", "method": "eth_subscription", "params": params})
            await socket.send([text[:9], text[9:]])
    except ConnectionClosed:
        pass


async def answer(socket):
    tasks = []
    try:
        async for text in socket:
            call = json.loads(text)
            subscribes = call["method"] == "eth_subscribe"
            result = "0x9ce59a13059e417087c02d3236a0b1cc" if subscribes else call.get("params")
            answer = json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result})
            await socket.send([answer[:7], answer[7:20], answer[20:]])
            if subscribes:
                tasks.append(asyncio.create_task(notify(socket, result)))
    except ConnectionClosed:
        pass
    for task in tasks:
        task.cancel()


async def main():
    async with serve(answer, "127.0.0.1", 0, ping_interval=0.05) as server:
        port = server.sockets[0].getsockname()[1]
        print(json.dumps([f"ws://127.0.0.1:{port}"]), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
