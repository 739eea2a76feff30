"""A typical load test on one host: 5,000 requests per second, all of which must succeed."""

from .generators import invalid_because, plimsoll, posting
from .machine import say
from .processes import nginx
from .settings import Settings
from .tables import Section

RATE = 5000


def measure(section: Section, settings: Settings) -> None:
    """Runs the open model once, with evenly spaced arrivals."""
    count = settings.background_requests
    section.title = f"{RATE:,}/s, {count:,} requests, on one host"
    with nginx(settings) as address:
        load = ["--rate", f"{RATE}/s", "--arrivals", "constant", "--requests", count]
        summary, finished = plimsoll([*posting(address), *load], count / RATE)
    requests, connections = summary["requests"], summary["connections"]
    table = section.table("what", "figure")
    table.add("scheduled", f"{requests['scheduled']:,}")
    table.add("ok", f"{requests['ok']:,}")
    table.add("rate planned, sent, ok", ", ".join(
        [f"{RATE:,}", f"{summary['rate']['sent']:,.1f}", f"{summary['rate']['ok']:,.1f}"]))
    table.add("connections opened, peak in use",
              f"{connections['opened']:,}, {connections['peak']:,}")
    table.add("CPU µs per request, of which user",
              f"{finished.cpu_seconds * 1e6 / count:.2f}, "
              f"{finished.user_seconds * 1e6 / count:.2f}")
    table.add("share of one processor", f"{finished.cpu_seconds / finished.wall_seconds:.1%}")
    for name, shown in (("latency", "latency"), ("service_time", "service time"), ("lag", "lag")):
        times = summary[name]
        cells = ", ".join(f"{times[each] / 1e6:.3f}" for each in ("p50", "p99", "p999"))
        table.add(f"{shown} p50, p99, p99.9 in ms", cells)
    success = requests["ok"] / max(1, requests["scheduled"])
    say(f"background: success {success:.3%}")
    complete = requests["ok"] == requests["scheduled"] == count
    section.bar("success", f"{success:.3%}", "100 %", complete)
    section.bar("connections opened beyond the peak",
                f"{connections['opened'] - connections['peak']:,}", "0",
                connections["opened"] == connections["peak"])
    reasons = ", ".join(f"{why} {count:,}" for why, count in connections["reasons"].items())
    section.note(f"reasons for opening connections: {reasons}")
    if reason := invalid_because(summary):
        section.note(f"plimsoll reports the run as invalid: {reason}")
