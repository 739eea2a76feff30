"""A million calls to two replicas in front of a chain that reorganises: none stale, none backward."""

import os
import re
import subprocess

from .proofs import ROOT

SEEDS = 5
CALLS = 210_000


def prove(_only: str) -> tuple[str, bool]:
    """Runs the simulation; returns a table, and whether it passed."""
    environment = {**os.environ, "PLIMSOLL_CACHE_SEEDS": str(SEEDS), "PLIMSOLL_CACHE_CALLS": str(CALLS),
                   "CARGO_PROFILE_DEV_DEBUG": "0"}
    done = subprocess.run(["cargo", "test", "--quiet", "--package", "plimsoll-gateway", "--lib",
                           "nothing_stale_or_backward", "--", "--nocapture"],
                          cwd=ROOT, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    found = re.findall(r"^seed (\d+): (\d+) calls, \{(.*)\}, (\d+) errors, (\d+) reorganisations, "
                       r"(\d+) stale, (\d+) backward", output, re.M)
    if len(found) != SEEDS:
        tail = "\n".join(output.splitlines()[-15:])
        raise subprocess.CalledProcessError(done.returncode, f"the simulation itself\n{tail}")
    lines = ["| seed | calls | use of the cache | errors | reorganisations | stale | backward |",
             "|---|---|---|---|---|---|---|"]
    lines += [f"| {seed} | {int(calls):,} | {uses.replace(chr(34), '')} | {errors} | {more} | {stale} | {back} |"
              for seed, calls, uses, errors, more, stale, back in found]
    return "\n".join(lines), done.returncode == 0
