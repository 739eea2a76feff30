"""Memory: must not grow with the number of requests, and only little with the number of targets."""

from .generators import invalid_because, plimsoll, posting
from .machine import say
from .processes import Finished, nginx
from .settings import CONNECTIONS, CONTENT_TYPE, REQUEST, Settings
from .tables import Section, Table

MIB = 1 << 20
REQUESTS_BAR_MIB = 64
TARGETS_BAR_MIB = 256
# Histograms grow as rarer values appear; a leak per request would add megabytes per million.
EQUAL_WITHIN_MIB = 4
TARGETS = 1000
TARGETS_RATE = 5000
TARGETS_SECONDS = 10
# A run that is slower than this is considered hung.
SLOWEST_PER_SECOND = 10_000


def measure(section: Section, settings: Settings) -> None:
    """Measures the peak resident size of three runs."""
    section.title = "Memory: peak resident size"
    section.method = "The kernel's VmHWM of the process, and the peak that plimsoll itself reports."
    table = section.table("run", "MiB", "reported by plimsoll", "requests ok", "requests/s")
    with nginx(settings) as address:
        peaks = []
        for count in settings.memory_requests:
            load = ["--users", CONNECTIONS, "--requests", count]
            summary, finished = plimsoll([*posting(address), *load], count / SLOWEST_PER_SECOND)
            peaks.append(add(section, table, f"{count:,} requests", summary, finished))
        plan = settings.folder / "targets.toml"
        plan.write_text(plan_of_many_targets(address))
        summary, finished = plimsoll([plan], TARGETS_SECONDS)
        many = add(section, table, f"{TARGETS:,} targets", summary, finished)
    fewer, more = (f"{count:,}" for count in settings.memory_requests)
    bar = f"< {REQUESTS_BAR_MIB} MiB"
    section.bar(f"peak of {more}", f"{peaks[1]:.1f} MiB", bar, peaks[1] < REQUESTS_BAR_MIB)
    growth = peaks[1] - peaks[0]
    section.bar(
        f"growth from {fewer} to {more}", f"{growth:.1f} MiB", f"≤ {EQUAL_WITHIN_MIB} MiB",
        growth <= EQUAL_WITHIN_MIB,
    )
    bar = f"< {TARGETS_BAR_MIB} MiB"
    section.bar(f"peak of {TARGETS:,} targets", f"{many:.1f} MiB", bar, many < TARGETS_BAR_MIB)


def add(section: Section, table: Table, run: str, summary: dict, finished: Finished) -> float:
    """Adds a run's row; returns its peak in MiB."""
    peak = finished.rss_peak_bytes / MIB
    own = summary["generator"]["rss_peak_bytes"] / MIB
    requests = summary["requests"]
    table.add(run, f"{peak:.1f}", f"{own:.1f}", f"{requests['ok']:,}",
              f"{summary['rate']['ok']:,.0f}")
    say(f"memory: {run}, {peak:.1f} MiB")
    if requests["ok"] != requests["scheduled"]:
        section.note(f"{run}: {requests['failed']:,} failed, {requests['unsent']:,} unsent")
    if reason := invalid_because(summary):
        section.note(f"{run}: plimsoll reports the run as invalid: {reason}")
    return peak


def plan_of_many_targets(address: str) -> str:
    """A plan with one server and a thousand targets, each with separate statistics."""
    lines = [
        'name = "many targets"',
        f'rate = "{TARGETS_RATE}/s"',
        f'duration = "{TARGETS_SECONDS}s"',
    ]
    for index in range(TARGETS):
        lines += [
            "[[target]]",
            f'name = "t{index}"',
            f'request = "POST http://{address}/?t={index}"',
            f'headers = {{ Content-Type = "{CONTENT_TYPE}" }}',
            f"body = '{REQUEST}'",
        ]
    return "\n".join(lines) + "\n"
