"""`vegeta attack`: requests per CPU-second beside the real vegeta, and latency under stalls."""

import json
import re
import shutil
from pathlib import Path
from statistics import median

from .machine import say
from .processes import CouldNotRun, Finished, nginx, run_generator, stall_server
from .settings import PLIMSOLL, Settings
from .stall import DEVIATION_BAR, HOLD_SECONDS, PERIOD_SECONDS, truth_ms
from .tables import Section, spread

WORKERS = 50
FASTER_BAR = 5
STALL_RATE = 1000
STALL_WORKERS = 10
MS = {"s": 1e3, "ms": 1.0, "µs": 1e-3, "ns": 1e-6}


def measure(section: Section, settings: Settings) -> None:
    """Full speed of both programs in turns, then a stalling server."""
    section.title = f"vegeta attack -rate=0 -max-workers={WORKERS}: requests per CPU-second"
    section.method = (
        f"GET from nginx at full speed, {settings.seconds} s each, results to a file; "
        f"{settings.rounds()}."
    )
    vegeta = shutil.which("vegeta")
    programs = {"plimsoll": [PLIMSOLL, "vegeta"], "vegeta": [vegeta]}
    rows: dict[str, list[float]] = {name: [] for name in programs if name != "vegeta" or vegeta}
    with nginx(settings) as address:
        for index in range(settings.runs):
            for name in list(rows)[:: 1 if index % 2 else -1]:
                rows[name].append(per_cpu_second(programs[name], address, settings))
            say(f"vegeta-attack, round {index + 1} of {settings.runs}: "
                + ", ".join(f"{name} {found[-1]:,.0f}" for name, found in rows.items()))
    table = section.table("program", "requests per CPU-second")
    for name, found in rows.items():
        table.add(name, spread(found, 0))
    if vegeta:
        pairs = [ours / theirs for ours, theirs in zip(rows["plimsoll"], rows["vegeta"])]
        section.bar("plimsoll to vegeta", spread(pairs, 2), f"≥ {FASTER_BAR}",
                    median(pairs) >= FASTER_BAR)
    else:
        section.note("not installed, left out: vegeta (go install github.com/tsenart/vegeta/v12)")
    stall(section, settings)


def attack(program: list, address: str, folder: Path, flags: list, seconds: float) -> Finished:
    """Runs an attack; its results are in `results.bin`."""
    targets = folder / "targets.txt"
    targets.write_text(f"GET http://{address}/\n")
    finished = run_generator([*program, "attack", f"-targets={targets}",
                              f"-output={folder / 'results.bin'}", *flags], seconds)
    if finished.code != 0:
        raise CouldNotRun(finished.err.strip()[:200])
    return finished


def per_cpu_second(program: list, address: str, settings: Settings) -> float:
    """Requests answered per second of the program's CPU time."""
    flags = ["-rate=0", f"-max-workers={WORKERS}", f"-duration={settings.seconds}s"]
    finished = attack(program, address, settings.folder, flags, settings.seconds)
    report = run_generator([PLIMSOLL, "vegeta", "report", "-type=json",
                            settings.folder / "results.bin"], settings.seconds)
    answered = json.loads(report.out)["status_codes"].get("200", 0)
    return answered / finished.cpu_seconds


def stall(section: Section, settings: Settings) -> None:
    """Latency from the planned instant, as the summary on stderr states it."""
    with stall_server(PERIOD_SECONDS, HOLD_SECONDS) as address:
        flags = [f"-rate={STALL_RATE}", f"-duration={settings.stall_seconds}s",
                 f"-max-workers={STALL_WORKERS}"]
        finished = attack([PLIMSOLL, "vegeta"], address, settings.folder, flags,
                          settings.stall_seconds)
    line = next(line for line in finished.err.splitlines() if line.startswith("latency"))
    for name, quantile in (("p95", 0.95), ("p99", 0.99)):
        value, unit = re.search(rf"{name} ([\d.]+)(s|ms|µs|ns)", line).groups()
        truth = truth_ms(quantile)
        deviation = float(value) * MS[unit] / truth - 1
        section.bar(f"{name} under stalls, -max-workers={STALL_WORKERS}",
                    f"{float(value) * MS[unit]:.1f} ms ({deviation:+.2%})",
                    f"{truth:.0f} ms ± 2 %", abs(deviation) <= DEVIATION_BAR)
