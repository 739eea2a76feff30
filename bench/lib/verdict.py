"""The verdict: plants every known fault, records the timed ones, and updates the confusion matrix."""

import os
import subprocess

from .machine import say
from .processes import CouldNotRun
from .settings import GENERATOR_CPU, ROOT, SERVER_CPU, Settings
from .tables import Section

RECORDINGS = ROOT / "bench/verdict"
DOCUMENT = ROOT / "docs/design/verdict.md"
# The same lines surround the matrix in the output of the tests and in the document.
BEGIN, END = "<!-- matrix -->\n", "<!-- end of matrix -->"
# Three minutes of runs; the rest is for building the tests.
SECONDS_MAX = 1800


def measure(section: Section, _settings: Settings) -> None:
    """Runs the suite of planted faults in release mode, and writes what it prints."""
    section.title = "Verdict: planted faults"
    section.method = (
        "Each fault is planted, and the run's verdict is compared with the expected one "
        "(crates/plimsoll/tests/it/planted)."
    )
    say("verdict: planting faults, about three minutes")
    # This program is pinned to the servers' processor; the suite pins servers and generator itself.
    command = ["taskset", "-c", f"{SERVER_CPU},{GENERATOR_CPU}", "cargo", "test", "--release",
               "--locked", "--quiet", "-p", "plimsoll", "--test", "it", "planted::every_planted",
               "--", "--nocapture"]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT,
                            capture_output=True, text=True).stdout.strip()
    environment = {**os.environ, "PLIMSOLL_RECORD": str(RECORDINGS), "PLIMSOLL_COMMIT": commit,
                   "PLIMSOLL_COMMAND": "bench/run verdict"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True,
                              timeout=SECONDS_MAX)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CouldNotRun(f"the suite of planted faults: {error}") from error
    _, begin, rest = done.stdout.partition(BEGIN)
    if not begin:
        message = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise CouldNotRun(f"the suite of planted faults: {message[0]}")
    matrix = rest.partition(END)[0]
    update(matrix)
    rows, _, count = matrix.strip().rpartition("\n\n")
    head, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in rows.splitlines()
    ]
    table = section.table(*head)
    for line in lines:
        table.add(*line)
    section.note(f"{count} The matrix is in {DOCUMENT.relative_to(ROOT)}, recordings are in "
                 f"{RECORDINGS.relative_to(ROOT)}.")
    section.bar("wrong verdicts", str(matrix.count("**wrong**")), "0", "**wrong**" not in matrix)


def update(matrix: str) -> None:
    """Replaces the matrix in the document."""
    text = DOCUMENT.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise CouldNotRun(f"{DOCUMENT} does not have the lines around the matrix")
    DOCUMENT.write_text(before + begin + matrix + end + after)
