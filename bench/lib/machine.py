"""The machine: what it is, what is installed on it, and how much of it the host took away."""

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .processes import CouldNotRun
from .settings import GENERATOR_CPU, PLIMSOLL, ROOT, SERVER_CPU

# Program → Debian package. oha is in none: it takes part where it is installed.
PACKAGES = {
    "wrk": "wrk", "hey": "hey", "h2load": "nghttp2-client", "nginx": "nginx-light",
    "haproxy": "haproxy",
}
# Above it, something else is running.
QUIET_LOAD = 0.3


def say(text: str) -> None:
    """Tells how far it is; figures go to stdout."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def install_missing() -> None:
    """Installs the programs to compare with; what cannot be had is left out where it is used."""
    # sbin is not on everybody's path, and nginx lives there.
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if not missing:
        return
    say(f"installing {', '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", *missing]):
        try:
            done = subprocess.run(["apt-get", *command], env=environment, stdout=sys.stderr)
        except OSError as error:
            say(f"could not install {', '.join(missing)}: {error}")
            return
        if done.returncode != 0:
            say(f"could not install {', '.join(missing)}: apt-get failed; are you root?")
            return


def build() -> None:
    """Builds the product and the programs of this package, in release."""
    for folder in (ROOT, ROOT / "bench"):
        say(f"building {folder}")
        command = ["cargo", "build", "--release", "--locked", "--quiet"]
        try:
            done = subprocess.run(command, cwd=folder, stdout=sys.stderr)
        except OSError as error:
            raise CouldNotRun(f"cargo: {error}") from error
        if done.returncode != 0:
            raise CouldNotRun(f"cargo build --release fails in {folder}")


def keep_off_the_generators_cpu() -> None:
    """Pins this program beside the servers, or says that the machine is too small."""
    usable = os.sched_getaffinity(0)
    if not {SERVER_CPU, GENERATOR_CPU} <= usable:
        raise CouldNotRun(f"needs processors {SERVER_CPU} and {GENERATOR_CPU}, may use {usable}")
    os.sched_setaffinity(0, {SERVER_CPU})


def facts() -> list[tuple[str, str]]:
    """The machine as name and value; to be asked before anything is built or run."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    load = os.getloadavg()[0]
    if load > QUIET_LOAD:
        say(f"the load average is {load:.2f}: something else is running, figures will be noisy")
    return [
        ("Date", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
        ("Processor", f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"),
        ("Kernel", platform.release()),
        ("Load average before", f"{load:.2f}" + ("" if load <= QUIET_LOAD else " (not quiet)")),
    ]


def first_line(command: list) -> str:
    """What a program says about itself first, on either output."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "missing"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].split(" Copyright")[0] if lines else "unknown"


def versions() -> list[tuple[str, str]]:
    """What is compared, as name and version."""
    commit = first_line(["git", "-C", ROOT, "describe", "--always", "--dirty"])
    found = [
        ("plimsoll", f"{first_line([PLIMSOLL, '--version'])}, commit {commit}"),
        ("nginx", first_line(["nginx", "-v"]).removeprefix("nginx version: ")),
        ("HAProxy", first_line(["haproxy", "-v"])),
        ("wrk", first_line(["wrk", "-v"])),
        # hey knows no version; its package does.
        ("hey", first_line(["dpkg-query", "-W", "-f", "${Version}", "hey"])),
        ("h2load", first_line(["h2load", "--version"])),
    ]
    if shutil.which("oha"):
        found.append(("oha", first_line(["oha", "--version"])))
    return found


@dataclass
class Processors:
    """What all processors have spent since boot, in the kernel's ticks."""

    total: int
    stolen: int

    @staticmethod
    def now() -> "Processors":
        """Up to this instant."""
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        ticks = [int(field) for field in fields]
        return Processors(total=sum(ticks), stolen=ticks[7])

    def stolen_since(self, before: "Processors") -> float:
        """The share that the host gave to others."""
        return (self.stolen - before.stolen) / max(1, self.total - before.total)
