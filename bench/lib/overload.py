"""The gateway under more calls than its upstream can answer, and a customer beside another one's flood."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from . import subjects
from .cached import chain
from .machine import say
from .processes import CouldNotRun
from .settings import CONTENT_TYPE, GENERATOR_CPU, PLIMSOLL, Settings
from .subjects import PATH, Calls, Subject, call
from .tables import Section, spread

SERVERS = 8
SERVICE_MS = 20
# Calls a second that the simulated chain can answer.
CAPACITY = SERVERS * 1000 // SERVICE_MS
# The customer that stays within its share.
WITHIN = CAPACITY // 4
FLOOD = 10 * CAPACITY
GOODPUT_BAR = 0.95
LATENCY_BAR = 2.0
BESIDE_BAR = 1.2
# The limit is found from a start, so that its search is not measured.
SETTLE_SECONDS = 20
# More than calls that wait and that are in flight.
CONNECTIONS = 512
# Two customers, and nothing but relays.
SETTINGS = '[cache]\nmemory = 0\n[[endpoint]]\nid = "ethpath_2"\nservice = "eth"\n'
CALL = call("eth_gasPrice")


def at_rate(section: Section, gateway: Subject, rate: int, seconds: int) -> Calls:
    load = ["--rate", f"{rate}/s", "--duration", f"{seconds}s", "--connections", CONNECTIONS]
    return gateway.run(section, CALL, load, seconds)


def p99_ms(calls: Calls) -> float:
    """Of the calls that were answered."""
    return calls.summary["latency_ok"]["p99"] / 1e6


def p50_ms(calls: Calls) -> float:
    return calls.summary["latency_ok"]["p50"] / 1e6


@contextmanager
def flood(gateway: Subject, seconds: int) -> Iterator[None]:
    """Another customer's calls, for as long as the context lasts."""
    url = f"http://{gateway.server.address}{PATH}".replace("ethpath_1", "ethpath_2")
    argv = ["taskset", "-c", str(GENERATOR_CPU), PLIMSOLL, "run", "--no-out", "--format", "json",
            "--url", url, "--body", CALL, "-H", f"Content-Type: {CONTENT_TYPE}",
            "--rate", f"{FLOOD}/s", "--duration", f"{seconds}s", "--connections", CONNECTIONS]
    argv = [str(part) for part in argv]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
            if process.poll() is not None:
                raise CouldNotRun("the flood ended early")
        finally:
            process.terminate()


def measure(section: Section, settings: Settings) -> None:
    """Goodput and latency at twice the capacity; one customer beside the flood of another."""
    section.title = "Gateway: overload"
    seconds = max(settings.seconds, 10)
    section.method = (
        f"The node is a simulated chain with {SERVERS} servers and exponential service times of "
        f"{SERVICE_MS} ms: {CAPACITY}/s. The open model at its capacity and at twice that, then one "
        f"customer at {WITHIN}/s, alone and beside another one at {FLOOD}/s. Latencies are those of "
        f"answered calls, from the instant at which they were due. Each gateway first runs for "
        f"{SETTLE_SECONDS} s at twice the capacity, and at each load for as long as it is then measured; "
        f"{settings.rounds()}."
    )
    table = section.table("load", "goodput/s", "p50 ms", "p99 ms", "answered %")
    rows: dict[str, list[Calls]] = {}
    quiet = Section("")
    node = chain("--servers", SERVERS, "--service-time", f"exponential {SERVICE_MS}ms")
    with node as address, subjects.gateway(settings, address, more=SETTINGS) as gateway:
        at_rate(quiet, gateway, 2 * CAPACITY, SETTLE_SECONDS)
        for _ in range(settings.runs):
            for name, rate in (("at capacity", CAPACITY), ("twice the capacity", 2 * CAPACITY),
                               ("one customer alone", WITHIN)):
                # A queue stands after some seconds; before, calls wait as in a burst.
                at_rate(quiet, gateway, rate, seconds)
                rows.setdefault(name, []).append(at_rate(quiet, gateway, rate, seconds))
                say(f"overload: {name}, {rows[name][-1].per_second:.0f}/s, "
                    f"p99 {p99_ms(rows[name][-1]):.1f} ms")
            with flood(gateway, 2 * seconds + 20):
                at_rate(quiet, gateway, WITHIN, 3)
                beside = at_rate(quiet, gateway, WITHIN, seconds)
            rows.setdefault("the same beside a flood", []).append(beside)
            say(f"overload: beside a flood, p99 {p99_ms(beside):.1f} ms")
    for name, done in rows.items():
        share = [100 * one.ok / one.summary["requests"]["scheduled"] for one in done]
        table.add(name, spread([one.per_second for one in done], 0),
                  spread([p50_ms(one) for one in done], 1), spread([p99_ms(one) for one in done], 1),
                  spread(share, 2))
    bars(section, rows)


def bars(section: Section, rows: dict[str, list[Calls]]) -> None:
    full, over = rows["at capacity"], rows["twice the capacity"]
    goodput = [one.per_second / CAPACITY for one in over]
    section.bar("goodput at twice the capacity, to the capacity", spread(goodput, 3),
                f"≥ {GOODPUT_BAR:.2f}", median(goodput) >= GOODPUT_BAR)
    ratios = [p99_ms(one) / p99_ms(other) for one, other in zip(over, full)]
    section.bar("p99 of answered calls to that at the capacity", spread(ratios),
                f"≤ {LATENCY_BAR:.1f}", median(ratios) <= LATENCY_BAR)
    alone, beside = rows["one customer alone"], rows["the same beside a flood"]
    ratios = [p99_ms(one) / p99_ms(other) for one, other in zip(beside, alone)]
    section.bar("p99 of a customer within its share, beside a flood to alone", spread(ratios),
                f"≤ {BESIDE_BAR:.1f}", median(ratios) <= BESIDE_BAR)
    shares = [one.ok / one.summary["requests"]["scheduled"] for one in beside]
    section.bar("its calls answered", spread([100 * one for one in shares], 2) + " %", "≥ 99.9 %",
                median(shares) >= 0.999)
