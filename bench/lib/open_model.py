"""Open model: lag of arrivals at half of capacity, compared with a bare timer's lateness."""

import base64
import json
import shutil
from dataclasses import dataclass
from statistics import median

from .generators import closed_model, invalid_because, plimsoll, posting
from .machine import say
from .processes import CouldNotRun, nginx, run_generator
from .settings import CONTENT_TYPE, REQUEST, Settings, own_program
from .tables import Section, spread

LAG_BAR = 1.5
# The 99.9th percentile is dominated by the virtual machine in both: shown, but without a bar.
JUDGED = ("p50", "p99")
SHOWN = {"p50": "p50", "p99": "p99", "p999": "p99.9"}
VEGETA_RATE = 5_000
# Long enough to estimate the capacity.
CAPACITY_SECONDS = 3


@dataclass
class Round:
    """A paired run of plimsoll and bare-timer."""

    lag: dict[str, float]
    timer: dict[str, float]
    unsent: int
    failed: int
    connections: int
    # Share of its processor in use.
    busy: float
    # Share of its processor spent spinning.
    spun: float
    cpu_us: float

    def ratio(self, name: str) -> float:
        """The ratio of plimsoll's lag to the bare timer's."""
        return self.lag[name] / max(self.timer[name], 0.1)


def measure(section: Section, settings: Settings) -> None:
    """Runs plimsoll and the bare timer in alternation, at the same rate on the same processor."""
    section.title = "Open model at half of capacity: lag"
    if rounds := rounds_at(section, settings, 2, "half of what plimsoll reached in the closed model"):
        report(section, rounds)


def quarter(section: Section, settings: Settings) -> None:
    """Measures at a quarter of capacity, at which plimsoll spins before each arrival by default."""
    section.title = "Open model at a quarter of capacity: lag with default settings"
    rounds = rounds_at(section, settings, 4, "a quarter of what plimsoll reached in the closed model")
    if not rounds:
        return
    table = section.table("lag, µs", "plimsoll", "bare-timer")
    for name, shown in SHOWN.items():
        ours, timer = [each.lag[name] for each in rounds], [each.timer[name] for each in rounds]
        table.add(shown, spread(ours), spread(timer, 0))
    p50 = [each.lag["p50"] for each in rounds]
    section.bar("p50 lag, µs", spread(p50), "< 2", median(p50) < 2)
    p99 = [each.ratio("p99") for each in rounds]
    section.bar("p99 lag to bare-timer's", spread(p99), "≤ 1.00", median(p99) <= 1)
    section.note(
        f"plimsoll spun for {spread([each.spun * 100 for each in rounds], 0)} % of its processor's "
        f"time and used another {spread([(each.busy - each.spun) * 100 for each in rounds], 0)} %"
    )


def rounds_at(section: Section, settings: Settings, divisor: int, part: str) -> list[Round]:
    """Paired rounds at this fraction of the closed model's capacity; failed rounds are noted."""
    rounds = []
    with nginx(settings) as address:
        capacity = settings.capacity or capacity_of(address, settings)
        rate = max(100, int(capacity / divisor / 100) * 100)
        section.method = (
            f"{rate:,}/s, {part}, for {settings.seconds} s; µs from the planned instant to its "
            f"dispatch, and for bare-timer to its waking; {settings.rounds()}."
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
    return rounds


def against_vegeta(section: Section, settings: Settings) -> None:
    """CPU per request at 5,000/s, with plimsoll sleeping like vegeta and with default settings."""
    section.title = f"Open model at {VEGETA_RATE:,}/s: CPU compared with vegeta"
    vegeta = shutil.which("vegeta")
    rows: dict[str, list[float]] = {"plimsoll --no-spin": [], "plimsoll": [], "vegeta": []}
    lags: dict[str, list[float]] = {name: [] for name in rows}
    section.method = f"{settings.seconds} s each, µs per request; {settings.rounds()}."
    with nginx(settings) as address:
        for index in range(settings.runs):
            names = list(rows)
            for name in names[index % 3:] + names[:index % 3]:
                if name == "vegeta" and not vegeta:
                    continue
                try:
                    cpu, lag = at_5000(name, address, settings)
                except CouldNotRun as reason:
                    section.note(f"round {index + 1}, {name}: could not run: {reason}")
                    continue
                rows[name].append(cpu)
                lags[name].append(lag)
    table = section.table("generator", "CPU µs per request", "p99 lag µs")
    for name, cpus in rows.items():
        if cpus:
            table.add(name, spread(cpus), "-" if name == "vegeta" else spread(lags[name], 1))
    if not vegeta:
        section.note("not installed, left out: vegeta (go install github.com/tsenart/vegeta/v12)")
    elif rows["vegeta"] and len(rows["vegeta"]) == len(rows["plimsoll --no-spin"]):
        ratios = [ours / theirs for ours, theirs in zip(rows["plimsoll --no-spin"], rows["vegeta"])]
        section.bar("CPU, --no-spin to vegeta", spread(ratios), "≤ 1.00", median(ratios) <= 1)


def at_5000(name: str, address: str, settings: Settings) -> tuple[float, float]:
    """CPU µs per request and, for plimsoll, the p99 lag in µs."""
    seconds = settings.seconds
    if name == "vegeta":
        target = settings.folder / "vegeta.json"
        body = base64.b64encode(REQUEST.encode()).decode()
        target.write_text(json.dumps({
            "method": "POST", "url": f"http://{address}/", "body": body,
            "header": {"Content-Type": [CONTENT_TYPE]},
        }) + "\n")
        finished = run_generator(
            ["vegeta", "attack", f"-rate={VEGETA_RATE}", f"-duration={seconds}s", "-format=json",
             f"-targets={target}", "-output=/dev/null"], seconds)
        if finished.code != 0:
            raise CouldNotRun(finished.err.strip()[:200])
        return finished.cpu_seconds * 1e6 / (VEGETA_RATE * seconds), 0.0
    load = ["--rate", f"{VEGETA_RATE}/s", "--duration", f"{seconds}s"]
    flags = ["--no-spin"] if name.endswith("--no-spin") else []
    summary, finished = plimsoll([*posting(address), *load, *flags], seconds)
    cpu = finished.cpu_seconds * 1e6 / max(1, summary["requests"]["sent"])
    return cpu, summary["lag"]["p99"] / 1e3


def one_round(
    section: Section, settings: Settings, address: str, rate: int, timer_first: bool
) -> Round:
    """Runs both at this rate, one right after the other."""
    seconds = settings.seconds
    timer = run_timer(rate, seconds) if timer_first else None
    load = ["--rate", f"{rate}/s", "--duration", f"{seconds}s"]
    load += ["--connections", str(settings.open_connections)]
    summary, finished = plimsoll([*posting(address), *load], seconds)
    if reason := invalid_because(summary):
        section.note(f"plimsoll reports a run as invalid: {reason}")
    if not summary["lag"]:
        raise CouldNotRun("plimsoll reported no lag")
    return Round(
        lag={name: summary["lag"][name] / 1e3 for name in SHOWN},
        timer=timer or run_timer(rate, seconds),
        unsent=summary["requests"]["unsent"],
        failed=summary["requests"]["failed"],
        connections=summary["connections"]["opened"],
        busy=finished.cpu_seconds / finished.wall_seconds,
        spun=summary["generator"]["spin_ns"] / 1e9 / finished.wall_seconds,
        cpu_us=finished.cpu_seconds * 1e6 / max(1, summary["requests"]["sent"]),
    )


def capacity_of(address: str, settings: Settings) -> float:
    """A short measurement of plimsoll's rate in the closed model."""
    generator = next(each for each in closed_model() if each.name == "plimsoll")
    return generator.run(address, CAPACITY_SECONDS, settings.folder).per_second


def run_timer(rate: int, seconds: int) -> dict:
    """The bare timer's percentiles at this rate, in µs."""
    finished = run_generator([own_program("bare-timer"), rate, seconds], seconds)
    if finished.code != 0:
        raise CouldNotRun(f"bare-timer: {finished.err.strip()}")
    return json.loads(finished.out)


def report(section: Section, rounds: list[Round]) -> None:
    """Tabulates each percentile and the ratios within rounds."""
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
        f"{spread([each.cpu_us for each in rounds])} µs per request; "
        f"it opened {spread([each.connections for each in rounds], 0)} connections"
    )
