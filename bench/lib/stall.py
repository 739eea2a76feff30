"""Accuracy: reported latency of a stalling server, compared with its calculated value."""

from .generators import invalid_because, plimsoll, posting
from .machine import say
from .processes import stall_server
from .settings import Settings
from .tables import Section

RATE = 1000
PERIOD_SECONDS = 10
HOLD_SECONDS = 1
CONNECTION_LIMITS = (8, 64, 1000)
PERCENTILES = {"p95": 0.95, "p99": 0.99, "p999": 0.999}
DEVIATION_BAR = 0.02


def truth_ms(quantile: float) -> float:
    """The share `hold / period` of arrivals is held, with latency spread evenly over 0 … hold."""
    held_share = HOLD_SECONDS / PERIOD_SECONDS
    return 1e3 * HOLD_SECONDS * (1 - (1 - quantile) / held_share)


def measure(section: Section, settings: Settings) -> None:
    """One run per connection limit: the true value is exact, so one run is enough."""
    section.title = (
        f"Accuracy: a server that holds every answer for {HOLD_SECONDS} s in every {PERIOD_SECONDS} s"
    )
    section.method = (
        f"{RATE:,}/s for {settings.stall_seconds} s, a whole number of periods; ms. Service time is "
        "what a generator reports that does not measure from the planned instant."
    )
    table = section.table(
        "connections", "percentile", "true value", "latency", "deviation", "service time", ""
    )
    for limit in CONNECTION_LIMITS:
        with stall_server(PERIOD_SECONDS, HOLD_SECONDS) as address:
            load = ["--rate", f"{RATE}/s", "--duration", f"{settings.stall_seconds}s"]
            args = [*posting(address), *load, "--connections", limit]
            summary, _ = plimsoll(args, settings.stall_seconds)
        worst = 0.0
        for name, quantile in PERCENTILES.items():
            truth = truth_ms(quantile)
            latency = summary["latency"][name] / 1e6
            deviation = latency / truth - 1
            worst = max(worst, abs(deviation))
            table.add(
                limit, name.replace("p999", "p99.9"), f"{truth:.0f}", f"{latency:.1f}",
                f"{deviation:+.2%}", f"{summary['service_time'][name] / 1e6:.1f}",
                "ok" if abs(deviation) <= DEVIATION_BAR else "over",
            )
        say(f"stall: {limit} connections, largest deviation {worst:.2%}")
        held = worst <= DEVIATION_BAR
        section.bar(f"largest deviation, {limit} connections", f"{worst:.2%}", "≤ 2 %", held)
        requests = summary["requests"]
        section.note(
            f"{limit} connections: {requests['scheduled']:,} scheduled, {requests['unsent']:,} "
            f"unsent, {requests['failed']:,} failed; {summary['connections']['opened']:,} opened"
        )
        if reason := invalid_because(summary):
            section.note(f"{limit} connections: plimsoll reports the run as invalid: {reason}")
