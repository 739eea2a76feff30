"""Open model: how late arrivals are at half of capacity, against a bare timer's own lateness."""

import json
from dataclasses import dataclass
from statistics import median

from .generators import closed_model, doubts, plimsoll, posting
from .machine import say
from .processes import CouldNotRun, nginx, run_generator
from .settings import Settings, own_program
from .tables import Section, spread

LAG_BAR = 1.5
# The 99.9th percentile is the virtual machine's, in both: shown, and not judged.
JUDGED = ("p50", "p99")
SHOWN = {"p50": "p50", "p99": "p99", "p999": "p99.9"}
# Long enough for a capacity to take half of.
CAPACITY_SECONDS = 3


@dataclass
class Round:
    """One pair of runs."""

    lag: dict[str, float]
    timer: dict[str, float]
    unsent: int
    failed: int
    connections: int
    # Of its one processor.
    busy: float
    cpu_us: float

    def ratio(self, name: str) -> float:
        """How much later plimsoll was than the bare timer."""
        return self.lag[name] / max(self.timer[name], 0.1)


def measure(section: Section, settings: Settings) -> None:
    """plimsoll and the bare timer by turns, at the same rate on the same processor."""
    section.title = "Open model at half of capacity: lag"
    rounds = []
    with nginx(settings) as address:
        capacity = settings.capacity or capacity_of(address, settings)
        rate = max(100, int(capacity / 2 / 100) * 100)
        section.method = (
            f"{rate:,}/s, half of what plimsoll reached in the closed model, for "
            f"{settings.seconds} s; µs from the planned instant to its dispatch, and for bare-timer "
            f"to its waking; {settings.rounds()}."
        )
        for index in range(settings.runs):
            try:
                pair = one_round(section, settings, address, rate, timer_first=index % 2 == 1)
            except CouldNotRun as reason:
                section.note(f"round {index + 1}: could not run: {reason}")
                continue
            rounds.append(pair)
            say(f"open, round {index + 1} of {settings.runs}: p99 lag of plimsoll "
                f"{pair.lag['p99']:.0f} µs, of bare-timer {pair.timer['p99']:.0f} µs")
    if rounds:
        report(section, rounds)


def one_round(
    section: Section, settings: Settings, address: str, rate: int, timer_first: bool
) -> Round:
    """Both at this rate, one right after the other."""
    seconds = settings.seconds
    timer = run_timer(rate, seconds) if timer_first else None
    load = ["--rate", f"{rate}/s", "--duration", f"{seconds}s"]
    load += ["--connections", str(settings.open_connections)]
    summary, finished = plimsoll([*posting(address), *load], seconds)
    if doubt := doubts(summary):
        section.note(f"plimsoll calls a run invalid: {doubt}")
    if not summary["lag"]:
        raise CouldNotRun("plimsoll reported no lag")
    return Round(
        lag={name: summary["lag"][name] / 1e3 for name in SHOWN},
        timer=timer or run_timer(rate, seconds),
        unsent=summary["requests"]["unsent"],
        failed=summary["requests"]["failed"],
        connections=summary["connections"]["opened"],
        busy=finished.cpu_seconds / finished.wall_seconds,
        cpu_us=finished.cpu_seconds * 1e6 / max(1, summary["requests"]["sent"]),
    )


def capacity_of(address: str, settings: Settings) -> float:
    """What plimsoll reaches in the closed model, measured once and shortly."""
    generator = next(each for each in closed_model() if each.name == "plimsoll")
    return generator.run(address, CAPACITY_SECONDS, settings.folder).per_second


def run_timer(rate: int, seconds: int) -> dict:
    """The bare timer's percentiles at this rate, in µs."""
    finished = run_generator([own_program("bare-timer"), rate, seconds], seconds)
    if finished.code != 0:
        raise CouldNotRun(f"bare-timer: {finished.err.strip()}")
    return json.loads(finished.out)


def report(section: Section, rounds: list[Round]) -> None:
    """Percentile by percentile, and the ratio of each round's pair."""
    table = section.table("lag, µs", "plimsoll", "bare-timer", "plimsoll to bare-timer")
    for name, shown in SHOWN.items():
        ratios = [each.ratio(name) for each in rounds]
        table.add(
            shown,
            spread([each.lag[name] for each in rounds], 0),
            spread([each.timer[name] for each in rounds], 0),
            spread(ratios),
        )
        if name in JUDGED:
            held = median(ratios) <= LAG_BAR
            section.bar(f"{shown} lag to bare-timer's", spread(ratios), f"≤ {LAG_BAR:.2f}", held)
    unsent = sum(each.unsent for each in rounds)
    failed = sum(each.failed for each in rounds)
    section.bar("arrivals unsent", f"{unsent:,}", "0", unsent == 0)
    section.bar("requests failed", f"{failed:,}", "0", failed == 0)
    section.note(
        f"plimsoll used {spread([each.busy * 100 for each in rounds], 0)} % of its processor, "
        f"{spread([each.cpu_us for each in rounds])} µs for each request; "
        f"it opened {spread([each.connections for each in rounds], 0)} connections"
    )
