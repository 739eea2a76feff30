"""The gateway's cache: what a hit, a miss and a shared answer cost, and how many relays it saves."""

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from . import subjects
from .gateway import capacity_bar, cost_table, measure_rounds, nginx_bars, steady_rate
from .generators import plimsoll
from .machine import say
from .processes import CouldNotRun, free_port, running
from .settings import CONNECTIONS, GENERATOR_CPU, PLIMSOLL, ROOT, Settings
from .subjects import PATH, Subject, call, cpu_seconds
from .tables import Section, spread

HIT_PER_SECOND_BAR = 60_000
HIT_TO_NGINX_BAR = 0.95
# Transactions of an average block: its answer without their bodies has about 20 KiB.
TRANSACTIONS = 280
# nginx's configuration has no longer strings.
NGINX_TEXT_MAX = 3_000
BATCH = 20
CALLERS = 1_000
MIX_RATE = 2_000
NUMBER = call("eth_blockNumber")


@contextmanager
def chain(*args: object) -> Iterator[str]:
    """Runs a simulated chain on the generator's processor; yields the address of its service."""
    port = free_port()
    argv = [PLIMSOLL, "sim", "chain", "--service", "eth", "--listen", f"127.0.0.1:{port}", *args]
    with running(argv, port, str(GENERATOR_CPU)) as server:
        yield f"{server.address}/eth"


def metric_sum(gateway: Subject, name: str, label: str = "") -> int:
    """The sum of a metric's samples that have this label."""
    with urllib.request.urlopen(f"http://{gateway.server.address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    samples = [line for line in lines if line.startswith(name + "{") and label in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in samples)


def result(gateway: Subject, method: str, params: str = "[]") -> object:
    return json.loads(gateway.answer(call(method, params)))["result"]


def settled(gateway: Subject) -> None:
    """Waits until the gateway serves a head, so that calls are cached."""
    for _ in range(100):
        gateway.answer(NUMBER)
        if metric_sum(gateway, "plimsoll_cache_bypassed_total", "no_head") == 0:
            return
        before = metric_sum(gateway, "plimsoll_calls_total", 'cache="hit"')
        gateway.answer(NUMBER)
        if metric_sum(gateway, "plimsoll_calls_total", 'cache="hit"') > before:
            return
    raise CouldNotRun("the gateway does not cache eth_blockNumber")


def block_by_hash(gateway: Subject) -> str:
    """A call for a block of about 20 KiB."""
    latest = int(str(result(gateway, "eth_blockNumber")), 16)
    for number in range(latest, latest - 50, -1):
        found = result(gateway, "eth_getBlockByNumber", f'["{number:#x}",false]')
        if 18_000 <= len(json.dumps(found)) <= 23_000:
            return call("eth_getBlockByHash", f'["{found["hash"]}",false]')
    raise CouldNotRun("no block of the simulated chain has about 20 KiB")


def nginx_text(answer: str) -> str:
    """nginx's directives that return a text of any length."""
    parts = [answer[at:at + NGINX_TEXT_MAX] for at in range(0, len(answer), NGINX_TEXT_MAX)]
    sets = "".join(f"set $part{place} '{part}'; " for place, part in enumerate(parts))
    return sets + 'return 200 "' + "".join(f"${{part{place}}}" for place in range(len(parts))) + '";'


def hits(section: Section, settings: Settings) -> None:
    """Hits beside nginx, which returns the same bytes."""
    section.title = "Gateway: hits of the cache, beside nginx"
    section.method = (
        f"The same request to both, {CONNECTIONS} connections; nginx returns the same bytes from its "
        "configuration. The node is a simulated chain. CPU is user and system time of all of the server's "
        f"threads, at full speed and at half of the slower one's capacity; {settings.rounds()}."
    )
    with chain("--transactions", TRANSACTIONS) as node, \
            subjects.gateway(settings, node) as ours:
        settled(ours)
        for name, body in (("eth_blockNumber", NUMBER), ("a 20 KiB block by hash", block_by_hash(ours))):
            one_hit(section, settings, ours, name, body)


def one_hit(section: Section, settings: Settings, ours: Subject, name: str, body: str) -> None:
    answer = ours.answer(body)
    with subjects.nginx_with_action(settings, nginx_text(answer)) as server:
        both = [ours, Subject("nginx", server)]
        if len(both[1].answer(body)) != len(answer):
            raise CouldNotRun("nginx returns other bytes")
        rate = steady_rate(section, both, body)
        rounds = measure_rounds(section, settings, both, body, rate)
    section.note(f"{name}: {len(answer):,} bytes")
    cost_table(section, rounds, ["plimsoll", "nginx"], rate)
    table = section.table(f"{name}: latency at {rate:,}/s, µs", "p50", "p99")
    for subject in ("plimsoll", "nginx"):
        done = [done.steady[subject] for done in rounds if subject in done.steady]
        table.add(subject, *(spread([one.latency_us(p) for one in done], 0) for p in ("p50", "p99")))
    if body == NUMBER:
        capacity_bar(section, rounds, HIT_PER_SECOND_BAR, f"{name}: ")
    nginx_bars(section, rounds, HIT_TO_NGINX_BAR, f"{name}: ", ", goal 1.05")


def kinds(section: Section, settings: Settings) -> None:
    """The gateway's CPU for each use of the cache."""
    section.title = "Gateway: CPU by use of the cache"
    section.method = (
        f"{CONNECTIONS} connections, closed model. Misses ask for balances of accounts at random. Shared "
        "answers are of a block that is too long to be stored, from a node that takes 2 ms; the gateway "
        f"of the last row has no cache. {settings.rounds()}."
    )
    table = section.table("use", "CPU µs per call", "calls/s", "that use")
    account = f"0x{'0' * 22}" + "{{random 100000000 999999999}}{{random 100000000 999999999}}"
    miss = call("eth_getBalance", f'["{account}","latest"]')
    batch = "[" + ",".join([NUMBER] * BATCH) + "]"
    with ExitStack() as stack:
        node = stack.enter_context(chain())
        slow = stack.enter_context(chain("--latency", "2ms"))
        ours = stack.enter_context(subjects.gateway(settings, node))
        short = stack.enter_context(
            subjects.gateway(settings, slow, more='[cache]\nentry = "256B"\nmemory = "64MiB"'))
        off = stack.enter_context(subjects.gateway(settings, node, more="[cache]\nmemory = 0"))
        settled(ours)
        settled(short)
        latest = result(short, "eth_getBlockByNumber", '["latest",false]')
        shared = call("eth_getBlockByHash", f'["{latest["hash"]}",false]')
        rows = [("hit", ours, NUMBER, 1, "hit"), (f"hit, batch of {BATCH}", ours, batch, BATCH, "hit"),
                ("coalesced", short, shared, 1, "coalesced"), ("miss", ours, miss, 1, "miss"),
                ("no cache", off, miss, 1, "bypass")]
        done: dict[str, list[tuple[float, float, float]]] = {name: [] for name, *_ in rows}
        for _ in range(settings.runs):
            for name, gateway, body, calls, use in rows:
                done[name].append(one_kind(section, settings, gateway, body, calls, use))
                say(f"cache: {name}, {done[name][-1][0]:.2f} µs per call")
    for name, *_ in rows:
        cost, rate, share = zip(*done[name])
        table.add(name, spread(list(cost)), spread(list(rate), 0), f"{median(share):.1%}")


def one_kind(
    section: Section, settings: Settings, gateway: Subject, body: str, calls: int, use: str
) -> tuple[float, float, float]:
    """CPU µs per call, calls per second, and the share of calls that used the cache in this way."""
    count = lambda label: metric_sum(gateway, "plimsoll_calls_total", label)  # noqa: E731
    before, those = count(""), count(f'cache="{use}"')
    ran = gateway.at_full_speed(section, body, settings.seconds)
    made = count("") - before
    return ran.cpu_us / calls, ran.per_second * calls, (count(f'cache="{use}"') - those) / made


def mix(section: Section, settings: Settings) -> None:
    """The demo's mix of reads: how many relays the cache saves, and what a call costs with it."""
    section.title = "Gateway: the demo's mix of reads"
    section.method = (
        f"scenarios/mix-ethereum.txt at {MIX_RATE:,}/s for {settings.seconds} s, the node is a simulated "
        f"chain with a block every 12 s; {settings.rounds()}."
    )
    table = section.table("gateway", "calls", "from the cache", "relays", "CPU µs per request", "p99 µs")
    with chain() as node, subjects.gateway(settings, node) as ours, \
            subjects.gateway(settings, node, more="[cache]\nmemory = 0") as off:
        settled(ours)
        off.answer(NUMBER)
        for name, gateway in (("with the cache", ours), ("without", off)):
            done = [one_mix(settings, gateway) for _ in range(settings.runs)]
            calls, saved, relays, cost, p99 = zip(*done)
            table.add(name, f"{median(calls):,.0f}", spread([100 * one for one in saved], 1) + " %",
                      spread(list(relays), 0), spread(list(cost)), spread(list(p99), 0))


def one_mix(settings: Settings, gateway: Subject) -> tuple[float, float, float, float, float]:
    """Calls, the share from the cache, relays, CPU per request, and p99."""
    here = f"http://{gateway.server.address}{PATH}\n"
    requests = (ROOT / "scenarios/mix-ethereum.txt").read_text()
    (Path(settings.folder) / "mix.txt").write_text(re.sub(r"(?<=POST )\$.*\n", here, requests))
    plan = Path(settings.folder) / "mix.toml"
    plan.write_text(
        f'rate = "{MIX_RATE}/s"\nduration = "{settings.seconds}s"\n[[target]]\nfile = "mix.txt"\n'
    )
    count = lambda label: metric_sum(gateway, "plimsoll_calls_total", label)  # noqa: E731
    relays = lambda: metric_sum(gateway, "plimsoll_relays_total")  # noqa: E731
    uses = [f'cache="{use}"' for use in ("hit", "coalesced", "shared")]
    before = (count(""), sum(map(count, uses)), relays(), cpu_seconds(gateway.server.pid))
    summary, _ = plimsoll([plan], settings.seconds)
    calls = count("") - before[0]
    used = cpu_seconds(gateway.server.pid) - before[3]
    return (calls, (sum(map(count, uses)) - before[1]) / calls, relays() - before[2],
            used * 1e6 / summary["requests"]["ok"], summary["latency"]["p99"] / 1e3)


def callers(section: Section, settings: Settings) -> None:
    """Many callers for one cold key."""
    section.title = f"Gateway: {CALLERS:,} callers for one cold key"
    section.method = f"{CALLERS:,} connections send the same call at once; the node takes 200 ms."
    with chain("--latency", "200ms") as node, subjects.gateway(settings, node) as ours:
        settled(ours)
        latest = result(ours, "eth_getBlockByNumber", '["latest",false]')
        body = call("eth_getBlockByHash", f'["{latest["hash"]}",true]')
        before = metric_sum(ours, "plimsoll_relays_total")
        calls = ours.run(section, body, ["--users", CALLERS, "--requests", CALLERS], 5)
        relays = metric_sum(ours, "plimsoll_relays_total") - before
    section.bar(f"relays for {calls.ok:,} answered calls", str(relays), "1", relays == 1)
