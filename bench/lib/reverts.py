"""Takes each protection of a simulation out, one at a time, and looks for a seed that fails.

A test that passes with and without a fix shows nothing. Each case in reverts.toml replaces a text that
occurs once in a file; the crate's simulation then runs until its seeds are used up. A case whose text is
no longer there is an error: the list has to follow the code.
"""

import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

from .proofs import ROOT

CASES = Path(__file__).with_name("reverts.toml")
SEEDS = 1_000


def run_seeds(folder: Path, package: str, test: str) -> tuple[str, list[int]]:
    """Runs the simulation; returns the last line of a failure and the seeds that failed."""
    environment = {**os.environ, "PLIMSOLL_SEEDS": str(SEEDS), "CARGO_PROFILE_DEV_DEBUG": "0",
                   "CARGO_TARGET_DIR": str(folder / "target")}
    done = subprocess.run(["cargo", "test", "--quiet", "--package", package, "--lib", test],
                          cwd=folder, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode == 0:
        return "", []
    found = re.search(r"seeds failed: \[([0-9, ]*)\]", output)
    if not found:
        tail = "\n".join(output.splitlines()[-15:])
        raise subprocess.CalledProcessError(done.returncode, f"the simulation itself\n{tail}")
    checks = re.findall(r"^(\d+) × (.+)$", output, re.M)
    most = max(checks, key=lambda check: int(check[0]), default=("", "a check"))[1]
    return most, [int(seed) for seed in found[1].split(",")]


def prove(only: str) -> tuple[str, bool]:
    """Runs the cases whose name contains `only`; returns a table, and whether each was noticed."""
    cases = [case for case in tomllib.loads(CASES.read_text())["case"] if only in case["name"]]
    rows, is_proven = [], True
    with tempfile.TemporaryDirectory(prefix="reverts-") as temporary:
        folder = Path(temporary) / "plimsoll"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns("target", ".git", "results"))
        for case in cases:
            file = folder / case["file"]
            text = file.read_text()
            if text.count(case["old"]) != 1:
                found = text.count(case["old"])
                rows.append((case["name"], f"its text occurs {found} times in {case['file']}", ""))
                is_proven = False
                continue
            file.write_text(text.replace(case["old"], case["new"]))
            print(f"{case['name']} ...", flush=True)
            check, seeds = run_seeds(folder, case["package"], case["test"])
            file.write_text(text)
            is_proven &= bool(seeds)
            noticed = f"{len(seeds)} of {SEEDS:,}, the first {min(seeds)}" if seeds else "none"
            rows.append((case["name"], noticed, check))
    lines = ["| without | seeds that fail | most frequent check |", "|---|---|---|"]
    lines += [f"| {name} | {seeds} | {check} |" for name, seeds, check in rows]
    return "\n".join(lines), is_proven
