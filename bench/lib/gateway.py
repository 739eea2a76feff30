"""The gateway: CPU cost of locally answered and relayed calls, and memory."""

import http.client
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from . import subjects
from .machine import allow_descriptors, say
from .processes import CouldNotRun
from .subjects import PATH, Calls, Subject, call
from .settings import CONNECTIONS, CONTENT_TYPE, Settings
from .tables import Section, spread

OWN_PER_SECOND_BAR = 60_000
OWN_TO_NGINX_BAR = 0.85
RELAY_TO_NGINX_BAR = 1.15
ADDED_TO_NGINX_BAR = 1.2
IDLE_BAR_MIB = 150
# As with the generator: histograms and pools may still be filling up.
GROWTH_BAR_MIB = 4

OWN_CALL = call("eth_chainId")
RELAYED_CALL = call("eth_blockNumber")
IDLE_CONNECTIONS = 10_000
# For other files of this program and of the gateway.
SPARE_DESCRIPTORS = 1000
# Below this, something other than the server was the limit.
BUSY_PERCENT = 90
# Long enough to estimate the capacity.
PROBE_SECONDS = 2
# A run that is slower than this is considered hung.
SLOWEST_PER_SECOND = 5000
MIB = 1 << 20


@dataclass
class Round:
    """The results of one round by name of the server, at full speed and at the fixed rate."""

    fast: dict[str, Calls] = field(default_factory=dict)
    steady: dict[str, Calls] = field(default_factory=dict)


Figure = Callable[[Calls], float]


def to_nginx(rounds: list[dict[str, Calls]], name: str, figure: Figure) -> list[float]:
    """Ratios to nginx's figure within each round, because the machine drifts between rounds."""
    both = [done for done in rounds if name in done and "nginx" in done]
    return [figure(done[name]) / figure(done["nginx"]) for done in both]


def each(rounds: list[dict[str, Calls]], name: str, figure: Figure) -> list[float]:
    """A server's figure in every round that has one."""
    return [figure(done[name]) for done in rounds if name in done]


def cpu_us(calls: Calls) -> float:
    return calls.cpu_us


def per_second(calls: Calls) -> float:
    return calls.per_second


def busy(calls: Calls) -> float:
    return calls.busy


def steady_rate(section: Section, those: list[Subject], body: str) -> int:
    """Half of the slowest server's capacity: a common rate that all can sustain."""
    reached = []
    for subject in those:
        fast = subject.at_full_speed(section, body, PROBE_SECONDS)
        reached.append(fast.per_second)
        say(f"gateway: {subject.name} reaches about {fast.per_second:,.0f}/s")
    return max(100, int(min(reached) / 2 / 100) * 100)


def measure_rounds(
    section: Section, settings: Settings, those: list[Subject], body: str, rate: int,
    steady_only: tuple[Subject, ...] = (),
) -> list[Round]:
    """Runs each server once per round at full speed and once at the rate, in rotating order."""
    rounds = []
    everyone = [*steady_only, *those]
    for index in range(settings.runs):
        shift = index % len(everyone)
        done = Round()
        for subject in everyone[shift:] + everyone[:shift]:
            try:
                if subject not in steady_only:
                    fast = subject.at_full_speed(section, body, settings.seconds)
                    done.fast[subject.name] = fast
                steady = subject.at_rate(section, body, rate, settings.seconds)
                done.steady[subject.name] = steady
            except CouldNotRun as reason:
                section.note(f"round {index + 1}: could not run: {reason}")
                continue
            say(f"gateway, {section.title}, round {index + 1} of {settings.runs}: {subject.name} "
                f"{steady.cpu_us:.2f} µs at {rate:,}/s")
        rounds.append(done)
    return rounds


def cost_table(section: Section, rounds: list[Round], names: list[str], rate: int) -> None:
    """Tabulates the cost of a call for each server."""
    table = section.table(
        "server on one core", "calls/s", "busy %", "CPU µs at that rate", f"CPU µs at {rate:,}/s",
        "to nginx's",
    )
    fast, steady = [done.fast for done in rounds], [done.steady for done in rounds]
    for name in names:
        table.add(
            name, spread(each(fast, name, per_second), 0), spread(each(fast, name, busy), 0),
            spread(each(fast, name, cpu_us)),
            spread(each(steady, name, cpu_us)), spread(to_nginx(steady, name, cpu_us), 3),
        )
        if any(percent < BUSY_PERCENT for percent in each(fast, name, busy)):
            section.note(f"{name} did not use its whole processor, so its calls/s are not its capacity: "
                         "the generator was the limit, or something else was running")


def capacity_bar(section: Section, rounds: list[Round], least: int, what: str = "") -> None:
    """Compares the gateway's calls per second on one core with a bar; `what` was called."""
    reached = each([done.fast for done in rounds], "plimsoll", per_second)
    if reached:
        section.bar(f"{what}calls/s on one core", spread(reached, 0), f"≥ {least:,}",
                    median(reached) >= least)


def nginx_bars(
    section: Section, rounds: list[Round], least: float, what: str = "", goal: str = ""
) -> None:
    """Compares the gateway's calls per CPU-second, relative to nginx's, with a bar; `what` was called."""
    for shown, all_done in (("at the fixed rate", [done.steady for done in rounds]),
                            ("at full speed", [done.fast for done in rounds])):
        # Calls per CPU-second are the inverse of CPU per call.
        share = [1 / ratio for ratio in to_nginx(all_done, "plimsoll", cpu_us)]
        if share:
            section.bar(f"{what}calls per CPU-second to nginx's, {shown}", spread(share, 3),
                        f"≥ {least:.2f}{goal}", median(share) >= least)


def local(section: Section, settings: Settings) -> None:
    """Locally answered calls, against nginx with the same answer in its configuration."""
    section.title = "Gateway: eth_chainId, answered locally"
    with ExitStack() as stack:
        node = stack.enter_context(subjects.node(section))
        ours = stack.enter_context(subjects.gateway(settings, node.server.address))
        answer = ours.answer(OWN_CALL)
        both = [ours, stack.enter_context(subjects.nginx_answering(settings, answer))]
        rate = steady_rate(section, both, OWN_CALL)
        section.method = (
            f"The same request to both, {CONNECTIONS} connections; nginx answers the same "
            f"{len(answer)} bytes from its configuration. CPU is user and system time of all of the "
            "server's threads, at full speed and at half of the slower one's capacity; "
            f"{settings.rounds()}."
        )
        rounds = measure_rounds(section, settings, both, OWN_CALL, rate)
    cost_table(section, rounds, [subject.name for subject in both], rate)
    capacity_bar(section, rounds, OWN_PER_SECOND_BAR)
    nginx_bars(section, rounds, OWN_TO_NGINX_BAR)


def relayed(section: Section, settings: Settings) -> None:
    """Calls relayed to a node, through each proxy in turn."""
    section.title = "Gateway: eth_blockNumber, relayed"
    with ExitStack() as stack:
        node = stack.enter_context(subjects.node(section))
        address = node.server.address
        starts: list[Callable[[], AbstractContextManager[Subject]]] = [
            lambda: subjects.gateway(settings, address),
            lambda: subjects.nginx_relaying(settings, address),
            lambda: subjects.haproxy(settings, address),
            lambda: subjects.hyper_relay(settings, address),
        ]
        proxies = subjects.start(section, stack, starts)
        if not proxies:
            return
        for proxy in proxies:
            proxy.answer(RELAYED_CALL)
        rate = steady_rate(section, proxies, RELAYED_CALL)
        section.method = (
            f"The same request to all, {CONNECTIONS} connections. The node behind all of them is "
            "echo-node, on the generator's processor with priority over it: it returns each call's "
            "id, as the gateway requires. Latency is measured from the instant at which a call was "
            "due; added latency is the difference to the same round directly to the node, at half "
            f"of the slowest proxy's capacity; {settings.rounds()}."
        )
        rounds = measure_rounds(section, settings, proxies, RELAYED_CALL, rate, (node,))
    names = [proxy.name for proxy in proxies]
    cost_table(section, rounds, names, rate)
    ratios = to_nginx([done.steady for done in rounds], "plimsoll", cpu_us)
    if ratios:
        section.bar("CPU at the fixed rate to nginx's", spread(ratios, 3),
                    f"≤ {RELAY_TO_NGINX_BAR:.2f}", median(ratios) <= RELAY_TO_NGINX_BAR)
    added_latency(section, rounds, node.name, names, rate)


def added_latency(
    section: Section, rounds: list[Round], node: str, names: list[str], rate: int
) -> None:
    """Tabulates the latency that each proxy adds."""
    table = section.table(f"latency at {rate:,}/s, µs", "p50", "p99", "added p50", "added p99")
    steady = [done.steady for done in rounds if node in done.steady]

    def added(done: dict[str, Calls], name: str, percentile: str) -> float:
        return done[name].latency_us(percentile) - done[node].latency_us(percentile)

    for name in [node, *names]:
        those = [done for done in steady if name in done]
        cells = [spread([done[name].latency_us(p) for done in those], 0) for p in ("p50", "p99")]
        cells += [
            "" if name == node else spread([added(done, name, p) for done in those], 0)
            for p in ("p50", "p99")
        ]
        table.add(name, *cells)
    both = [done for done in steady if "plimsoll" in done and "nginx" in done]
    for percentile in ("p50", "p99"):
        # A round in which nginx added no latency is noise and has no ratio.
        ratios = [
            added(done, "plimsoll", percentile) / added(done, "nginx", percentile)
            for done in both if added(done, "nginx", percentile) > 0
        ]
        if ratios:
            section.bar(f"added {percentile} to nginx's", spread(ratios),
                        f"≤ {ADDED_TO_NGINX_BAR:.2f}", median(ratios) <= ADDED_TO_NGINX_BAR)


def two_workers(section: Section, settings: Settings) -> None:
    """The same calls with one worker, and with two, one of which shares the generator's processor."""
    section.title = "Gateway: two workers against one, eth_chainId"
    with ExitStack() as stack:
        node = stack.enter_context(subjects.node(section))
        pair = []
        for workers, name in ((1, "one worker"), (2, "two workers")):
            begun = subjects.gateway(settings, node.server.address, workers)
            pair.append(Subject(name, stack.enter_context(begun).server))
        rate = steady_rate(section, pair, OWN_CALL)
        section.method = (
            f"{CONNECTIONS} connections. The machine has only two processors: the second worker gets "
            "what the generator leaves of its processor, so calls/s cannot double. The figures show "
            "whether a call costs more with two workers; busy is a share of one processor; "
            f"{settings.rounds()}."
        )
        rounds = measure_rounds(section, settings, pair, OWN_CALL, rate)
    table = section.table("gateway", "calls/s", "busy %", "calls per CPU-second at that rate",
                          f"calls per CPU-second at {rate:,}/s")
    fast, steady = [done.fast for done in rounds], [done.steady for done in rounds]

    def per_cpu_second(calls: Calls) -> float:
        return 1e6 / calls.cpu_us

    for subject in pair:
        table.add(subject.name, spread(each(fast, subject.name, per_second), 0),
                  spread(each(fast, subject.name, busy), 0),
                  spread(each(fast, subject.name, per_cpu_second), 0),
                  spread(each(steady, subject.name, per_cpu_second), 0))

    def scaled(all_done: list[dict[str, Calls]], figure: Figure) -> str:
        both = [done for done in all_done if len(done) == len(pair)]
        return spread([figure(done["two workers"]) / figure(done["one worker"]) for done in both], 3)

    table.add("two to one", scaled(fast, per_second), "", scaled(fast, per_cpu_second),
              scaled(steady, per_cpu_second))


def memory(section: Section, settings: Settings) -> None:
    """Memory of idle connections, and growth with the number of calls."""
    section.title = "Gateway: memory"
    section.method = "VmRSS and VmHWM of the gateway, from the kernel."
    table = section.table("gateway", "MiB", "peak MiB")

    def add(what: str, gateway: Subject) -> float:
        held = gateway.resident() / MIB
        table.add(what, f"{held:.1f}", f"{gateway.resident_peak() / MIB:.1f}")
        say(f"gateway, memory: {what}, {held:.1f} MiB")
        return held

    with subjects.node(section) as node:
        allow_descriptors(IDLE_CONNECTIONS + SPARE_DESCRIPTORS)
        with subjects.gateway(settings, node.server.address) as gateway:
            add("at startup", gateway)
            idle = [one_call(gateway) for _ in range(IDLE_CONNECTIONS)]
            open_files = len(list(Path(f"/proc/{gateway.server.pid}/fd").iterdir()))
            held = add(f"with {len(idle):,} idle connections, each after one call", gateway)
            for connection in idle:
                connection.close()
            if open_files < IDLE_CONNECTIONS:
                raise CouldNotRun(f"the gateway kept only {open_files:,} files open")
            section.bar(f"with {IDLE_CONNECTIONS:,} idle connections", f"{held:.1f} MiB",
                        f"≤ {IDLE_BAR_MIB} MiB", held <= IDLE_BAR_MIB)
        total = settings.gateway_calls
        with subjects.gateway(settings, node.server.address) as gateway:
            many_calls(section, gateway, total // 10)
            early = add(f"after {total // 10:,} relayed calls", gateway)
            many_calls(section, gateway, total - total // 10)
            growth = add(f"after {total:,}", gateway) - early
            section.bar(f"growth from {total // 10:,} to {total:,} calls", f"{growth:.1f} MiB",
                        f"≤ {GROWTH_BAR_MIB} MiB", growth <= GROWTH_BAR_MIB)


def one_call(gateway: Subject) -> http.client.HTTPConnection:
    """A connection that has made one call and stays open."""
    connection = http.client.HTTPConnection(gateway.server.address, timeout=10)
    headers = {"Content-Type": CONTENT_TYPE}
    try:
        connection.request("POST", PATH, OWN_CALL, headers)
        connection.getresponse().read()
    except OSError as error:
        raise CouldNotRun(f"the gateway at {gateway.server.address}: {error}") from error
    return connection


def many_calls(section: Section, gateway: Subject, count: int) -> None:
    """Makes this many relayed calls at full speed."""
    load = ["--users", CONNECTIONS, "--requests", count]
    gateway.run(section, RELAYED_CALL, load, count / SLOWEST_PER_SECOND)
