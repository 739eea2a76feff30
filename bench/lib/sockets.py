"""Sockets: the memory of idle WebSocket connections, and the delivery lag of subscriptions."""

import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from .generators import WITH_SUMMARY
from .machine import allow_descriptors, say
from .processes import CouldNotRun, Server, content_of, free_port, pinned, running, status_bytes
from .settings import GENERATOR_CPU, PLIMSOLL, Settings
from .tables import Section, spread

KIB = 1 << 10
IDLE = 15_000
# The process without its connections: its memory is subtracted.
FEW = 100
IDLE_BAR_KIB = 10
SUBSCRIBERS = 10_000
# Files of a process besides its sockets.
OTHER_FILES = 500
# Sockets opened per second: 15,000 are open after 7.5 s.
PER_SECOND = 2_000
# What the generator may add to the server's own delay at p99: a fraction of what a viewer of a block notices.
ADDED_BAR_MS = 10
# Local addresses, so that the sockets of one run do not use up the ports of one address.
SOURCES = [f"127.0.0.{last}" for last in range(2, 6)]
# How long all sockets stay open before the memory is read.
SETTLED_SECONDS = 3
# How long a run may take to open all sockets.
OPEN_SECONDS = 120


def idle(section: Section, settings: Settings) -> None:
    """The resident size of a run with 15,000 open sockets, less that of one with 100."""
    section.title = f"{IDLE:,} idle WebSocket connections: memory of the generator"
    section.method = (
        f"plimsoll run with {IDLE:,} and with {FEW} sockets, one worker, against plimsoll sim chain; VmRSS of the "
        f"generator {SETTLED_SECONDS} s after the last one has opened; the difference is divided by the difference "
        f"of sockets; {settings.rounds()}."
    )
    allow_descriptors(IDLE + OTHER_FILES)
    sizes, runs = [], []
    with chain(settings) as server:
        for index in range(settings.runs):
            few, _ = held_open(settings, server, FEW)
            many, summary = held_open(settings, server, IDLE)
            sizes.append((many - few) / (IDLE - FEW) / KIB)
            runs.append((many / KIB / KIB, summary))
            say(f"sockets, round {index + 1} of {settings.runs}: {sizes[-1]:.2f} KiB per connection")
    table = section.table("sockets", "VmRSS MiB", "opened", "dropped", "failed", "opening p99 ms")
    table.add(
        f"{IDLE:,}",
        spread([size for size, _ in runs], 1),
        f"{min(own['messages']['opened'] for _, own in runs):,}",
        sum(own["messages"]["dropped"] for _, own in runs),
        sum(own["requests"]["failed"] + own["requests"]["unsent"] for _, own in runs),
        spread([own["messages"]["opening"]["p99"] / 1e6 for _, own in runs]),
    )
    whole = all(own["requests"]["ok"] == IDLE for _, own in runs)
    held = median(sizes) < IDLE_BAR_KIB and whole
    section.bar("memory per connection", f"{spread(sizes)} KiB", f"< {IDLE_BAR_KIB} KiB, all open", held)


def subscribers(section: Section, settings: Settings) -> None:
    """The lag of 10,000 subscribers to a block each second, beside the server's own delay."""
    section.title = f"{SUBSCRIBERS:,} subscribers, a block each second: delivery lag"
    section.method = (
        "eth_subscribe newHeads on as many WebSockets, one worker, against plimsoll sim chain. Lag: from the block's "
        "timestamp until the notification was read. The server's own: until the kernel had accepted it, which "
        f"includes the notifications sent before it; both with the {SUBSCRIBERS // PER_SECOND} s in which the sockets "
        f"are opened; {settings.rounds()}."
    )
    allow_descriptors(SUBSCRIBERS + OTHER_FILES)
    rounds = []
    for index in range(settings.runs):
        with chain(settings, "--block-time", "1s") as server:
            summary = finish(start(settings, server, SUBSCRIBERS, 3 * settings.seconds, subscribed=True))
            rounds.append((summary, counts(server)))
        lag, own = rounds[-1][0]["messages"]["lag"], rounds[-1][1]["notification_delay_us"]
        say(f"sockets, round {index + 1} of {settings.runs}: lag p99 {lag['p99'] / 1e6:.1f} ms, the server's own "
            f"{own['p99'] / 1e3:.1f} ms")
    table = section.table("", "p50 ms", "p99 ms", "max ms")
    for name, figure in (("lag", lambda at, own, _: own["messages"]["lag"][at] / 1e6),
                         ("the server's own", lambda at, _, own: own["notification_delay_us"][at] / 1e3),
                         ("spread", lambda at, own, _: own["messages"]["spread"][at] / 1e6)):
        table.add(name, *(spread([figure(at, *both) for both in rounds], 1) for at in ("p50", "p99", "max")))
    table = section.table("messages", "received", "sent by the server", "gaps", "dropped", "CPU µs per message")
    for summary, own in rounds:
        messages = summary["messages"]
        cost = summary["generator"]["cpu_ns"] / 1e3 / max(1, messages["received"])
        table.add("", f"{messages['received']:,}", f"{own['notifications']:,}", messages["gaps"], messages["dropped"],
                  f"{cost:.2f}")
    added = [summary["messages"]["lag"]["p99"] / 1e6 - own["notification_delay_us"]["p99"] / 1e3
             for summary, own in rounds]
    gaps = sum(summary["messages"]["gaps"] for summary, _ in rounds)
    held = median(added) <= ADDED_BAR_MS and gaps == 0
    section.bar("p99 lag less the server's own", f"{spread(added, 1)} ms", f"≤ {ADDED_BAR_MS} ms, no gap", held)


@contextmanager
def chain(_settings: Settings, *more: str) -> Iterator[Server]:
    """A simulated chain with one thread."""
    port = free_port()
    argv = [PLIMSOLL, "sim", "chain", "--service", "eth", "--listen", f"127.0.0.1:{port}", *more]
    with running(argv, port) as server:
        yield server


def counts(server: Server) -> dict:
    """What the simulator has counted."""
    with urllib.request.urlopen(f"http://{server.address}/sim/counts", timeout=30) as answer:
        return json.load(answer)


def start(settings: Settings, server: Server, sockets: int, seconds: int, subscribed: bool) -> subprocess.Popen:
    """Starts a run that holds sockets open for some seconds after the last one was opened."""
    plan = settings.folder / "sockets.toml"
    plan.write_text(plan_of(server.address, sockets, seconds, subscribed))
    argv = [PLIMSOLL, "run", "--no-out", "--format", "json", "--workers", 1, plan]
    output = {"stdout": tempfile.TemporaryFile(), "stderr": tempfile.TemporaryFile()}
    try:
        process = subprocess.Popen(pinned(GENERATOR_CPU, argv), stdin=subprocess.DEVNULL, **output)
    except OSError as error:
        raise CouldNotRun(f"plimsoll: {error}") from error
    process.output = output
    return process


def finish(process: subprocess.Popen) -> dict:
    """Waits for a run to end; returns its summary."""
    try:
        code = process.wait(OPEN_SECONDS + 60)
    except subprocess.TimeoutExpired as error:
        raise CouldNotRun("plimsoll did not exit in time") from error
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
    out, err = content_of(process.output["stdout"]), content_of(process.output["stderr"])
    if code not in WITH_SUMMARY:
        message = err.strip().splitlines()[-1:] or ["no message"]
        raise CouldNotRun(f"plimsoll exited with code {code}: {message[0]}")
    return json.loads(out)


def held_open(settings: Settings, server: Server, sockets: int) -> tuple[int, dict]:
    """The resident size of a run while all its sockets are open, in bytes, and its summary."""
    process = start(settings, server, sockets, SETTLED_SECONDS + 5, subscribed=False)
    deadline = time.monotonic() + OPEN_SECONDS
    try:
        # One more is the connection that asks.
        while counts(server)["connections_open"] <= sockets:
            if process.poll() is not None or time.monotonic() > deadline:
                summary = finish(process)
                messages = summary["messages"]
                raise CouldNotRun(f"{messages['opened']:,} of {sockets:,} sockets opened: {summary['errors']}")
            time.sleep(0.2)
        time.sleep(SETTLED_SECONDS)
        size = status_bytes(process.pid, "VmRSS")
        return size, finish(process)
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()


def plan_of(address: str, sockets: int, seconds: int, subscribed: bool) -> str:
    """Sockets that are opened one after the other and stay open."""
    lines = [
        f"sockets = {sockets}",
        f"per_second = {PER_SECOND}",
        f'duration = "{sockets // PER_SECOND + seconds}s"',
        f"connections = {{ source = {json.dumps(SOURCES)} }}",
        "[[target]]",
        f'ws = "ws://{address}/eth"',
    ]
    if subscribed:
        lines.append('subscribe = { method = "eth_subscribe", params = ["newHeads"] }')
    return "\n".join(lines) + "\n"
