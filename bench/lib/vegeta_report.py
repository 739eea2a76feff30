"""`vegeta report` over one gob file: plimsoll against the real vegeta."""

import base64
import random
import shutil
from pathlib import Path
from statistics import median

from .machine import say
from .processes import CouldNotRun, Finished, run_generator
from .settings import ANSWER, PLIMSOLL, Settings
from .tables import Section, spread

MIB = 1 << 20
RSS_BAR_MIB = 200
SECONDS_BAR = 2
FASTER_BAR = 5
RATE = 5_000
HEADERS = ("Content-Length: 43\r\nContent-Type: application/json\r\n"
           "Date: Thu, 26 Nov 2026 10:00:00 GMT\r\n\r\n")


def measure(section: Section, settings: Settings) -> None:
    """Time and memory of both over the same file."""
    count = 200_000 if settings.quick else 5_000_000
    section.title = f"vegeta report over {count:,} results in gob"
    section.method = ("Each result has a body of 43 bytes and three headers; the file is in the page "
                      f"cache. One processor; {settings.rounds()}.")
    vegeta = shutil.which("vegeta")
    file = written(settings.folder, count)
    programs = {"plimsoll": [PLIMSOLL, "vegeta"], "vegeta": [vegeta]}
    rows: dict[str, list[Finished]] = {name: [] for name in programs if name != "vegeta" or vegeta}
    for index in range(settings.runs):
        for name in list(rows)[:: 1 if index % 2 else -1]:
            finished = run_generator([*programs[name], "report", file], count / 100_000)
            if finished.code != 0:
                raise CouldNotRun(f"{name}: {finished.err.strip()[:200]}")
            rows[name].append(finished)
        say(f"vegeta-report, round {index + 1} of {settings.runs}")
    file.unlink()
    table = section.table("program", "seconds", "CPU seconds", "peak MiB")
    for name, all_runs in rows.items():
        table.add(name, spread([one.wall_seconds for one in all_runs]),
                  spread([one.cpu_seconds for one in all_runs]),
                  spread([one.rss_peak_bytes / MIB for one in all_runs], 0))
    ours = [one.wall_seconds for one in rows["plimsoll"]]
    peak = max(one.rss_peak_bytes for one in rows["plimsoll"]) / MIB
    section.bar("seconds", spread(ours), f"< {SECONDS_BAR}", median(ours) < SECONDS_BAR)
    section.bar("peak", f"{peak:.0f} MiB", f"< {RSS_BAR_MIB} MiB", peak < RSS_BAR_MIB)
    if not vegeta:
        section.note("not installed, left out: vegeta (go install github.com/tsenart/vegeta/v12)")
        return
    pairs = zip(rows["vegeta"], rows["plimsoll"])
    ratios = [theirs.cpu_seconds / own.cpu_seconds for theirs, own in pairs]
    section.bar("CPU, vegeta to plimsoll", spread(ratios, 1), f"≥ {FASTER_BAR}",
                median(ratios) >= FASTER_BAR)


def written(folder: Path, count: int) -> Path:
    """A gob file with this many results."""
    random.seed(1)
    body = base64.b64encode(ANSWER.encode()).decode()
    headers = base64.b64encode(HEADERS.encode()).decode()
    rows = folder / "results.csv"
    with rows.open("w") as out:
        for seq in range(count):
            at = 1_795_687_200_000_000_000 + seq * 1_000_000_000 // RATE
            latency = int(random.lognormvariate(14, 1))
            answer = f"200,{latency},70,43,,{body}"
            if seq % 500 == 499:
                answer = f"0,{latency},70,0,context deadline exceeded,"
            out.write(f"{at},{answer},bench,{seq},POST,http://127.0.0.1:3069/,{headers}\n")
    file = folder / "results.bin"
    finished = run_generator(
        [PLIMSOLL, "vegeta", "encode", "-to", "gob", "-output", file, rows], count / 100_000)
    rows.unlink()
    if finished.code != 0:
        raise CouldNotRun(finished.err.strip()[:200])
    return file
