"""Short calls alongside long answers: the latency that long answers add."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from . import subjects
from .machine import say
from .processes import CouldNotRun, free_port, running
from .settings import PLIMSOLL, Settings
from .tables import Section, spread

LONG_MIB = 50
# Bar for the latency that long answers add to short calls, at p99.
ADDED_BAR_MS = 20
SECONDS = 5
PAUSE = 0.002
GATEWAY = """
listen = ["127.0.0.1:{port}"]
database = "off"
[[upstream]]
id = "long"
service = "kava"
url = "http://127.0.0.1:{long}"
[[upstream]]
id = "node"
service = "eth"
url = "http://{node}"
"""


def request(service: str) -> bytes:
    """The bytes of a call."""
    body = subjects.call("eth_blockNumber")
    head = f"POST /v1 HTTP/1.1\r\nHost: h\r\nTarget-Service-Id: {service}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def ask(connection: socket.socket, sent: bytes, buffer: bytearray) -> None:
    """Sends a call and reads the whole answer."""
    connection.sendall(sent)
    read = b""
    while b"\r\n\r\n" not in read:
        read += connection.recv(len(buffer)) or raise_cut_off()
    head, _, body = read.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise CouldNotRun(head.decode(errors="replace"))
    length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
    due = int(length) - len(body)
    while due > 0:
        due -= connection.recv_into(buffer, min(due, len(buffer))) or raise_cut_off()


def raise_cut_off() -> bytes:
    """Raises because the connection closed within an answer."""
    raise CouldNotRun("an answer was cut off")


@contextmanager
def long_node():
    """Runs a node with long answers on another thread; yields its port."""
    loop, ready, port = asyncio.new_event_loop(), threading.Event(), free_port()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                call = json.loads(await reader.readexactly(length))
                start = b'{"jsonrpc":"2.0","id":%d,"result":"' % call["id"]
                total = len(start) + (LONG_MIB << 20) + 2
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total + start)
                for _ in range(LONG_MIB):
                    writer.write(b"x" * (1 << 20))
                    await writer.drain()
                writer.write(b'"}')
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", port))
        ready.set()
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    yield port
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def short_calls(port: int) -> list[float]:
    """The durations of sequential short calls, in milliseconds, sorted."""
    times, buffer, sent = [], bytearray(1 << 16), request("eth")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            start = time.perf_counter()
            ask(connection, sent, buffer)
            times.append((time.perf_counter() - start) * 1e3)
            time.sleep(PAUSE)
    return sorted(times)


def long_calls(port: int, stop: threading.Event, done: list[int]) -> None:
    """Requests long answers sequentially until stopped."""
    buffer, sent = bytearray(1 << 20), request("kava")
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while not stop.is_set():
            ask(connection, sent, buffer)
            done.append(1)


def measure(section: Section, settings: Settings) -> None:
    """Measures short calls, alone and alongside a stream of long answers."""
    section.title = f"Gateway: short calls alongside answers of {LONG_MIB} MiB"
    section.method = (
        "One connection makes short calls to one node, another requests long answers from another "
        "node, through one worker. Caller and long node are both this program, on the other "
        "processor; because they share it, the figures include their waiting for each other."
    )
    alone, beside, answers = [], [], []
    with subjects.node(section) as node, long_node() as long, TemporaryDirectory() as folder:
        port = free_port()
        file = Path(folder) / "gateway.toml"
        file.write_text(GATEWAY.format(port=port, long=long, node=node.server.address))
        with running([PLIMSOLL, "gateway", "--config", file], port):
            for index in range(settings.runs):
                alone.append(short_calls(port))
                stop, done = threading.Event(), []
                other = threading.Thread(target=long_calls, args=(port, stop, done))
                other.start()
                beside.append(short_calls(port))
                stop.set()
                other.join()
                answers.append(len(done))
                say(f"gateway, alongside long answers: round {index + 1} of {settings.runs}")
    table = section.table("short calls, ms", "p50", "p99", "long answers")
    for name, rounds, count in (("alone", alone, []), ("with long answers", beside, answers)):
        p50, p99 = ([times[int(len(times) * part)] for times in rounds] for part in (0.5, 0.99))
        table.add(name, spread(p50), spread(p99), spread(count, 0) if count else "")
    added = [b[int(len(b) * 0.99)] - a[int(len(a) * 0.99)] for a, b in zip(alone, beside)]
    section.bar("added p99, ms", spread(added), f"≤ {ADDED_BAR_MS}", median(added) <= ADDED_BAR_MS)
