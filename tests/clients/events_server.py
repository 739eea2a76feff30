"""An HTTP server on the library "aiohttp" whose /events is an event stream: comments, and events with consecutive
ids every 20 ms, which continue after Last-Event-ID. Each stream ends after five events. It prints its URL as JSON
and exits when its stdin closes.

Usage: python events_server.py
"""

import asyncio
import json
import sys

from aiohttp import web


async def events(request):
    number = int(request.headers.get("Last-Event-ID", 0))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    await response.write(b": hello\n\n")
    try:
        for _ in range(5):
            await asyncio.sleep(0.02)
            number += 1
            await response.write(f"id: {number}\n".encode())
            await response.write(f"data: tick {number}\n\n".encode())
    except ConnectionResetError:
        pass
    return response


async def main():
    app = web.Application()
    app.router.add_get("/events", events)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    print(json.dumps([f"http://127.0.0.1:{port}"]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


asyncio.run(main())
