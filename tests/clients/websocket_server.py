"""A WebSocket server on the library "websockets", with compression for clients that ask for it, which answers
each JSON-RPC call with its parameters, in fragments. It prints its URL as JSON and exits when its stdin closes.

Usage: python websocket_server.py
"""

import asyncio
import json
import sys

from websockets.asyncio.server import serve


async def answer(socket):
    async for text in socket:
        call = json.loads(text)
        answer = json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": call.get("params")})
        await socket.send([answer[:7], answer[7:20], answer[20:]])


async def main():
    async with serve(answer, "127.0.0.1", 0, ping_interval=0.05) as server:
        port = server.sockets[0].getsockname()[1]
        print(json.dumps([f"ws://127.0.0.1:{port}"]), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
