"""The live page: what ten viewers cost a run, beside the same run without it."""

import http.client
import os
import threading
import time
from statistics import median

from .generators import plimsoll, posting
from .machine import say
from .processes import free_port, nginx
from .settings import CONNECTIONS, SERVER_CPU, Settings
from .tables import Section, spread

VIEWERS = 10
BAR = 1.02


def measure(section: Section, settings: Settings) -> None:
    """Measures CPU per exchange with and without viewers."""
    section.title = f"Live page, {CONNECTIONS} connections"
    section.method = (
        f"The closed section's load. CPU of the whole process; {VIEWERS} viewers read every event "
        f"on the server's processor; {settings.rounds()}."
    )
    kinds = {"no live page": None, "no viewer": 0, f"{VIEWERS} viewers": VIEWERS}
    rounds = {name: [] for name in kinds}
    received = 0
    with nginx(settings) as address:
        for index in range(settings.runs):
            names = list(rounds)[index % 3:] + list(rounds)[:index % 3]
            for name in names:
                cost, read = one_run(address, settings, kinds[name])
                rounds[name].append(cost)
                received += read
            say(f"live, round {index + 1} of {settings.runs}: "
                + ", ".join(f"{name} {costs[-1]:.2f} µs" for name, costs in rounds.items()))
    table = section.table("run", "CPU µs per exchange")
    for name, costs in rounds.items():
        table.add(name, spread(costs))
    ratios = [one / other for one, other in zip(rounds[f"{VIEWERS} viewers"], rounds["no live page"])]
    section.bar(f"CPU, {VIEWERS} viewers to none", spread(ratios, 3), f"≤ {BAR:.2f}",
                median(ratios) <= BAR)
    section.note(f"the viewers received {received / settings.runs / VIEWERS / 1024:.0f} KiB each in a run")


def one_run(address: str, settings: Settings, viewers: int | None) -> tuple[float, int]:
    """CPU per exchange in microseconds, and the bytes that viewers received."""
    load = ["--users", CONNECTIONS, "--duration", f"{settings.seconds}s"]
    if viewers is None:
        summary, finished = plimsoll([*posting(address), *load], settings.seconds)
        return finished.cpu_seconds * 1e6 / summary["requests"]["ok"], 0
    port = free_port()
    counts = [0] * viewers
    threads = [threading.Thread(target=watch, args=(port, settings.seconds, counts, index))
               for index in range(viewers)]
    for thread in threads:
        thread.start()
    summary, finished = plimsoll([*posting(address), *load, "--live", f"127.0.0.1:{port}"],
                                 settings.seconds)
    for thread in threads:
        thread.join()
    return finished.cpu_seconds * 1e6 / summary["requests"]["ok"], sum(counts)


def watch(port: int, seconds: float, counts: list[int], index: int) -> None:
    """Reads events until the run ends."""
    # 0 is the calling thread.
    os.sched_setaffinity(0, {SERVER_CPU})
    deadline = time.monotonic() + seconds + 10
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/events")
            answer = connection.getresponse()
            while chunk := answer.read1(1 << 16):
                counts[index] += len(chunk)
            return
        except (OSError, http.client.HTTPException):
            if counts[index]:
                return
            time.sleep(0.02)
