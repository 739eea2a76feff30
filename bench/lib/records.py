"""Records: what it costs to record every request, on the processor, in memory and on disk."""

import json
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path
from statistics import median

from .generators import WITH_SUMMARY, closed_model, plimsoll, posting
from .machine import say
from .processes import CouldNotRun, Finished, nginx, pinned, run_generator
from .settings import CONNECTIONS, CONTENT_TYPE, GENERATOR_CPU, PLIMSOLL, REQUEST, Settings
from .tables import Section, spread

MIB = 1 << 20
WRK_BAR = 1.05
PEAK_BAR_MIB = 64
RAW_GOAL = 48
PARQUET_GOAL = 12
REPORT_BAR_SECONDS = 2
REPORT_BAR_MIB = 200
# A run that is slower than this is considered hung.
SLOWEST_PER_SECOND = 10_000


def measure(section: Section, settings: Settings) -> None:
    """Measures recording beside wrk, then a long recording and the reports on it."""
    section.title = f"Records of every request, {CONNECTIONS} connections"
    section.method = (
        "The closed section's load. CPU of the whole process, from its start to the end of "
        f"samples.parquet; {settings.rounds()}."
    )
    with nginx(settings) as address:
        beside_wrk(section, settings, address)
        long_run(section, settings, address)
        raw_size(section, settings, address)


def beside_wrk(section: Section, settings: Settings, address: str) -> None:
    """CPU per exchange with and without records, and wrk's."""
    wrk = next(generator for generator in closed_model() if generator.name == "wrk")
    rounds = {"wrk": [], "recording": [], "not recording": []}
    for index in range(settings.runs):
        names = list(rounds)[index % 3:] + list(rounds)[:index % 3]
        for name in names:
            if name == "wrk":
                cost = wrk.run(address, settings.seconds, settings.folder).cpu_us
            else:
                cost = recorded(address, settings, name == "recording")
            rounds[name].append(cost)
        say(f"records, round {index + 1} of {settings.runs}: "
            + ", ".join(f"{name} {costs[-1]:.2f} µs" for name, costs in rounds.items()))
    table = section.table("generator", "CPU µs per exchange")
    for name, costs in rounds.items():
        table.add(name, spread(costs))
    to_wrk = [own / other for own, other in zip(rounds["recording"], rounds["wrk"])]
    section.bar("CPU, recording to wrk", spread(to_wrk, 3), f"≤ {WRK_BAR:.2f}",
                median(to_wrk) <= WRK_BAR)
    both = zip(rounds["recording"], rounds["not recording"])
    section.note(f"recording to not recording: {spread([one / other for one, other in both], 3)}")


def recorded(address: str, settings: Settings, records: bool) -> float:
    """The CPU per exchange of one run, in microseconds."""
    out = settings.folder / "records"
    load = ["--users", CONNECTIONS, "--duration", f"{settings.seconds}s"]
    if records:
        summary, finished = run_to(out, [*posting(address), *load], settings.seconds)
        shutil.rmtree(out)
    else:
        summary, finished = plimsoll([*posting(address), *load], settings.seconds)
    return finished.cpu_seconds * 1e6 / summary["requests"]["ok"]


def run_to(out: Path, args: list, seconds: float) -> tuple[dict, Finished]:
    """Runs plimsoll with a run directory."""
    command = [PLIMSOLL, "run", "--out", out, "--format", "json", *args]
    finished = run_generator(command, seconds)
    if finished.code not in WITH_SUMMARY:
        raise CouldNotRun(f"plimsoll exited with code {finished.code}: {finished.err[-200:]}")
    return json.loads(finished.out), finished


def long_run(section: Section, settings: Settings, address: str) -> None:
    """Memory and disk of a long recording, and the time and memory of reports on it."""
    count = settings.memory_requests[1]
    out = settings.folder / "records"
    plan = settings.folder / "records.toml"
    plan.write_text(plan_of_two_targets(address, count))
    summary, finished = run_to(out, [plan], count / SLOWEST_PER_SECOND)
    dropped = [own for own in summary["verdict"]["findings"] if own["id"] == "samples_dropped"]
    section.note(f"{count:,} requests: {dropped[0]['evidence'] if dropped else 'none dropped'}")
    peak = finished.rss_peak_bytes / MIB
    section.bar(f"peak memory, {count:,} requests", f"{peak:.1f} MiB", f"< {PEAK_BAR_MIB} MiB",
                peak < PEAK_BAR_MIB)
    size = (out / "samples.parquet").stat().st_size / count
    section.bar("Parquet", f"{size:.1f} bytes per request", f"≤ {PARQUET_GOAL}",
                size <= PARQUET_GOAL)
    table = section.table("report", "seconds", "peak MiB")
    kinds = {
        "text": [],
        "text of one target, from records": ["--target", "a"],
        "parquet of one target": ["--target", "a", "--format", "parquet", "--output",
                                  settings.folder / "part.parquet"],
    }
    for name, args in kinds.items():
        done = run_generator([PLIMSOLL, "report", out, *args], 60)
        if done.code not in WITH_SUMMARY:
            raise CouldNotRun(f"plimsoll report exited with code {done.code}: {done.err[-200:]}")
        table.add(name, f"{done.wall_seconds:.2f}", f"{done.rss_peak_bytes / MIB:.1f}")
        if name != "parquet of one target":
            section.bar(f"report, {name}", f"{done.wall_seconds:.2f} s",
                        f"< {REPORT_BAR_SECONDS} s", done.wall_seconds < REPORT_BAR_SECONDS)
            used = done.rss_peak_bytes / MIB
            section.bar(f"memory of report, {name}", f"{used:.1f} MiB", f"< {REPORT_BAR_MIB} MiB",
                        used < REPORT_BAR_MIB)
    shutil.rmtree(out)


def raw_size(section: Section, settings: Settings, address: str) -> None:
    """Bytes per request of a recording whose process was killed."""
    out = settings.folder / "records"
    load = ["--users", str(CONNECTIONS), "--duration", "10m"]
    command = [PLIMSOLL, "run", "--out", out, *posting(address), *load]
    process = subprocess.Popen(pinned(GENERATOR_CPU, command), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    time.sleep(settings.seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    size = (out / "samples.bin").stat().st_size
    rows = records_in(out / "samples.bin")
    section.bar("raw", f"{size / rows:.2f} bytes per request", f"≤ {RAW_GOAL}",
                size / rows <= RAW_GOAL)
    shutil.rmtree(out)


def records_in(path: Path) -> int:
    """The number of records in whole blocks (crates/measure/src/samples.rs)."""
    records = 0
    with path.open("rb") as file:
        file.readline()
        while len(prefix := file.read(12)) == 12:
            _, length, _ = struct.unpack("<4sII", prefix)
            body = file.read(length)
            if len(body) == length:
                records += struct.unpack_from("<I", body, 4)[0]
    return records


def plan_of_two_targets(address: str, count: int) -> str:
    """The closed section's load under two names."""
    lines = [f"users = {CONNECTIONS}", f"requests = {count}"]
    for name in ("a", "b"):
        lines += ["[[target]]", f'name = "{name}"', f'request = "POST http://{address}/"',
                  f'headers = {{ Content-Type = "{CONTENT_TYPE}" }}', f"body = '{REQUEST}'"]
    return "\n".join(lines) + "\n"
