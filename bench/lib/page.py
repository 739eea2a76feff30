"""The page of a run of 33 minutes: its size, and the time until Chromium has drawn it."""

import json
import os
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from .machine import say
from .processes import CouldNotRun, run_generator
from .settings import PLIMSOLL, Settings
from .tables import Section, spread

MIB = 1 << 20
SIZE_BAR_MIB = 2
DRAWN_BAR_SECONDS = 1
RUN_SECONDS = 1980
SECOND = 1_000_000_000
# Drawn: every chart has its canvas, and a frame with them has been produced.
DRAWN = """new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(
    [performance.now(), document.querySelectorAll("canvas").length]))))"""


def measure(section: Section, settings: Settings) -> None:
    """Size and drawing time of a page with 1,980 rows of four chains and six scraped processes."""
    section.title = f"The page of a run of {RUN_SECONDS // 60} minutes"
    section.method = (
        "The demo's seconds (four chains, six scraped gateways), repeated to the length of the run. Drawn: from "
        f"the start of the navigation to the second frame after the script; {settings.rounds()}, each in a new tab.")
    chromium = shutil.which("chromium")
    if not chromium:
        raise CouldNotRun("chromium is not installed: apt-get install chromium")
    demo, run = settings.folder / "demo", settings.folder / "long"
    say("page: a run of the demo, 20 s")
    done = run_generator([PLIMSOLL, "demo", "--rate", "500/s", "--duration", "20s", "--out", demo], 30)
    if done.code not in (0, 98, 99):
        raise CouldNotRun(done.err.strip()[-200:])
    lengthen(demo, run, RUN_SECONDS)
    page = settings.folder / "page.html"
    made = run_generator([PLIMSOLL, "report", run, "--format", "html", "--output", page], 60)
    if made.code not in (0, 98, 99):
        raise CouldNotRun(made.err.strip()[-200:])
    size = page.stat().st_size / MIB
    with browser(chromium) as call:
        drawn = [draw(call, page) for _ in range(settings.runs)]
    section.bar("size of the page", f"{size:.2f} MiB", f"< {SIZE_BAR_MIB} MiB", size < SIZE_BAR_MIB)
    times = [seconds for seconds, _ in drawn]
    section.bar("drawn, seconds", spread(times), f"< {DRAWN_BAR_SECONDS}", median(times) < DRAWN_BAR_SECONDS)
    section.note(f"{drawn[0][1]} charts; the report took {made.wall_seconds:.1f} s and {made.rss_peak_bytes / MIB:.0f} "
                 f"MiB for {(run / 'snapshots.jsonl').stat().st_size / MIB:.0f} MiB of snapshots")
    shutil.rmtree(run)


def lengthen(short: Path, into: Path, seconds: int) -> None:
    """Writes a run directory with the seconds of another, repeated. Counters of scraped processes restart."""
    into.mkdir()
    for name in ("plan.toml", "host.json"):
        shutil.copy(short / name, into)
    lines = (short / "snapshots.jsonl").read_text().splitlines()
    # The first and the last second are special: the warm-up's, and the shorter one at the end.
    header, first, *middle, _, end = lines
    middle = [json.loads(line) for line in middle if '"end":' not in line[:8]]
    base = middle[0]["t_ns"]
    with (into / "snapshots.jsonl").open("w") as out:
        out.write(f"{header}\n{first}\n")
        for place in range(seconds):
            own = middle[place % len(middle)]
            moved = base + place * SECOND - own["t_ns"]
            own["t_ns"] += moved
            for scraped in own.get("scrapes", {}).values():
                if "unix_ns" in scraped:
                    scraped["unix_ns"] += moved
            out.write(sealed(own))
        end = json.loads(end)
        end["end"].update(duration_ns=seconds * SECOND, seconds=seconds + 1)
        out.write(sealed(end))


def sealed(line: dict) -> str:
    """A line with its checksum."""
    line.pop("crc32", None)
    text = json.dumps(line, separators=(",", ":"))[:-1]
    return f'{text},"crc32":"{zlib.crc32(text.encode()):08x}"}}\n'


@contextmanager
def browser(chromium: str) -> Iterator:
    """Runs a headless Chromium; yields a function that calls a method of its DevTools protocol."""
    with tempfile.TemporaryDirectory() as profile:
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-pipe",
                 f"--user-data-dir={profile}"]
        # The pipes are its descriptors 3 and 4.
        command = f'exec "$0" "$@" 3<&{to_read} 4>&{from_write}'
        process = subprocess.Popen(["bash", "-c", command, chromium, *flags], pass_fds=(to_read, from_write),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(from_write)
        number = 0
        with open(to_write, "wb", buffering=0) as requests, open(from_read, "rb") as answers:
            def call(method: str, session: str | None = None, **params) -> dict:
                nonlocal number
                number += 1
                message = {"id": number, "method": method, "params": params}
                if session:
                    message["sessionId"] = session
                requests.write(json.dumps(message).encode() + b"\0")
                while True:
                    answer = json.loads(message_from(answers))
                    if answer.get("id") == number:
                        if "error" in answer:
                            raise CouldNotRun(f"{method}: {answer['error']['message']}")
                        return answer["result"]

            try:
                yield call
            finally:
                process.terminate()
                process.wait()


def message_from(answers) -> bytes:
    """The next message, which a zero byte ends."""
    message = bytearray()
    while (byte := answers.read(1)) != b"\0":
        if not byte:
            raise CouldNotRun("chromium has exited")
        message += byte
    return bytes(message)


def draw(call, page: Path) -> tuple[float, int]:
    """Opens a page in a new tab; returns the seconds until it was drawn and the number of charts."""
    target = call("Target.createTarget", url="about:blank")["targetId"]
    session = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    call("Page.navigate", session, url=page.as_uri())
    deadline = time.monotonic() + 60
    ready = "location.protocol === 'file:' && document.readyState === 'complete'"
    while not call("Runtime.evaluate", session, expression=ready)["result"]["value"]:
        if time.monotonic() > deadline:
            raise CouldNotRun("the page is not loaded after a minute")
        time.sleep(0.02)
    result = call("Runtime.evaluate", session, expression=DRAWN, awaitPromise=True, returnByValue=True)
    millis, charts = result["result"]["value"]
    call("Target.closeTarget", targetId=target)
    return millis / 1000, charts
