"""What resilience costs a call when nothing fails, and what hedging gains when one node is slow."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from . import subjects
from .gateway import cpu_us, each, measure_rounds, steady_rate
from .processes import free_port, running
from .settings import GENERATOR_CPU, PLIMSOLL, Settings
from .subjects import Subject
from .tables import Section, spread

COST_BAR_US = 0.5
HEDGED_BAR = 1.5
CALL = "eth_gasPrice"
# At half of what one of the nodes can answer with this latency, far from the gateway's limits.
HEDGING_RATE = 400
LATENCY = "lognormal 5ms 8ms"
# Ten times the median, for 5 % of the slow node's calls.
SLOW = '[[fault]]\nkind = "delay"\nby = "45ms"\nshare = "5%"\n'

GATEWAY = """
listen = ["127.0.0.1:{port}"]
database = "off"
[[service]]
id = "eth"
chain_id = 1
block_time = "12s"
{keys}
[[endpoint]]
id = "ethpath_1"
service = "eth"
"""
UPSTREAM = """
[[upstream]]
id = "node-{number}"
service = "eth"
url = "http://{node}"
"""


@contextmanager
def gateway(settings: Settings, name: str, keys: str, nodes: list[str]) -> Iterator[Subject]:
    """Runs the gateway with these keys of its service, in front of these nodes."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="gateway-", dir=settings.folder) as folder:
        file = Path(folder) / "gateway.toml"
        upstreams = [UPSTREAM.format(number=n, node=node) for n, node in enumerate(nodes)]
        file.write_text(GATEWAY.format(port=port, keys=keys) + "".join(upstreams))
        with running([PLIMSOLL, "gateway", "--config", file], port) as server:
            yield Subject(name, server)


@contextmanager
def chain(settings: Settings, faults: str) -> Iterator[str]:
    """Runs a simulated node; yields its address and path."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="chain-", dir=settings.folder) as folder:
        file = Path(folder) / "faults.toml"
        file.write_text(faults)
        argv = [PLIMSOLL, "sim", "chain", "--service", "eth", "--listen", f"127.0.0.1:{port}"]
        argv += ["--latency", LATENCY, *(["--faults", file] if faults else [])]
        with running(argv, port, str(GENERATOR_CPU)) as server:
            yield f"{server.address}/eth"


def cost(section: Section, settings: Settings) -> None:
    """The CPU time of a relayed call with and without retries, hedges and health checks."""
    section.title = "Gateway: the cost of resilience when nothing fails"
    configurations = [
        ("all off", 'health_checks = false\nretry_budget = "0%"\nretry_floor = "0/s"'),
        ("defaults", ""),
        ("hedged at p95", 'hedge = "p95"'),
    ]
    with ExitStack() as stack:
        node = stack.enter_context(subjects.node(section)).server.address
        subjects_ = [stack.enter_context(gateway(settings, name, keys, [node, node]))
                     for name, keys in configurations]
        rate = steady_rate(section, subjects_, CALL)
        section.method = (
            f"{CALL} through each at half of the slowest one's capacity; both upstreams are the same "
            "echo-node. Hedged at p95, up to 5 % of the calls are sent twice although nothing fails: "
            f"that is the price of hedging, not of the bookkeeping; {settings.rounds()}."
        )
        rounds = [done.steady for done in
                  measure_rounds(section, settings, subjects_, CALL, rate)]
    table = section.table("configuration", f"CPU µs per call at {rate:,}/s", "more than all off")
    for name, _ in configurations:
        more = [done[name].cpu_us - done["all off"].cpu_us for done in rounds
                if name in done and "all off" in done]
        table.add(name, spread(each(rounds, name, cpu_us)), spread(more) if more else "")
        if more and name == "defaults":
            section.bar("added CPU per call, µs", spread(more), f"≤ {COST_BAR_US}",
                        median(more) <= COST_BAR_US)


def hedging(section: Section, settings: Settings) -> None:
    """The p99 of a pool with one slow node, hedged and not, against that of a healthy pool."""
    section.title = "Gateway: hedging with one slow node"
    pools = [("healthy", "", 'hedge = "off"'), ("one slow node", SLOW, 'hedge = "off"'),
             ("one slow node, hedged at p95", SLOW, 'hedge = "p95"')]
    section.method = (
        f"Two simulated nodes with a latency of {LATENCY} (median, p99); one of them takes 45 ms more "
        f"for 5 % of its calls. {CALL} at {HEDGING_RATE}/s; {settings.rounds()}."
    )
    found: dict[str, list[float]] = {name: [] for name, *_ in pools}
    for _ in range(settings.runs):
        for name, faults, keys in pools:
            with ExitStack() as stack:
                nodes = [stack.enter_context(chain(settings, text)) for text in ("", faults)]
                ours = stack.enter_context(gateway(settings, name, keys, nodes))
                # The quantile must be known before anything is hedged.
                ours.at_rate(section, CALL, HEDGING_RATE, 2)
                calls = ours.at_rate(section, CALL, HEDGING_RATE, settings.seconds)
                found[name].append(calls.latency_us("p99") / 1e3)
    table = section.table("pool", "p99, ms")
    for name, values in found.items():
        table.add(name, spread(values))
    ratios = [slow / well for slow, well in zip(found[pools[2][0]], found["healthy"])]
    section.bar("p99, hedged, to the healthy pool's", spread(ratios, 2), f"≤ {HEDGED_BAR}",
                median(ratios) <= HEDGED_BAR)
