"""The machine: its description, installed tools, and time stolen by the host."""

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .processes import CouldNotRun
from .settings import GENERATOR_CPU, PLIMSOLL, ROOT, SERVER_CPU

# Program → Debian package. oha is not packaged: it is included if installed.
PACKAGES = {
    "wrk": "wrk", "hey": "hey", "h2load": "nghttp2-client", "nghttpd": "nghttp2-server", "nginx": "nginx-light",
    "haproxy": "haproxy", "openssl": "openssl", "chromium": "chromium", "ip": "iproute2", "nft": "nftables",
    "taskset": "util-linux",
}
# Above this load average, something else is running.
QUIET_LOAD = 0.3


def say(text: str) -> None:
    """Reports progress on stderr; results go to stdout."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def install_missing() -> None:
    """Installs the programs to compare with; those that cannot be installed are left out."""
    # nginx is in sbin, which is not on every user's path.
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
    """Builds Plimsoll and the programs of this package in release mode."""
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
    """Pins this program to the servers' processor; fails if the machine has only one."""
    usable = os.sched_getaffinity(0)
    if not {SERVER_CPU, GENERATOR_CPU} <= usable:
        raise CouldNotRun(f"needs processors {SERVER_CPU} and {GENERATOR_CPU}, may only use {usable}")
    os.sched_setaffinity(0, {SERVER_CPU})


def allow_descriptors(count: int) -> None:
    """Raises the limit of open files, which the programs started afterwards inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))
    except (OSError, ValueError) as error:
        raise CouldNotRun(
            f"needs {count:,} open files, {hard:,} are allowed; raise the limit with ulimit -Hn, or run as root"
        ) from error


def facts() -> list[tuple[str, str]]:
    """The machine as pairs of name and value; call before anything is built or run."""
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
    """The first line of a program's output, without its copyright."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "missing"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].split(" Copyright")[0] if lines else "unknown"


def versions() -> list[tuple[str, str]]:
    """Names and versions of the programs compared."""
    commit = first_line(["git", "-C", ROOT, "describe", "--always", "--dirty"])
    found = [
        ("plimsoll", f"{first_line([PLIMSOLL, '--version'])}, commit {commit}"),
        ("nginx", first_line(["nginx", "-v"]).removeprefix("nginx version: ")),
        ("HAProxy", first_line(["haproxy", "-v"])),
        ("wrk", first_line(["wrk", "-v"])),
        # hey has no version flag; its package has a version.
        ("hey", first_line(["dpkg-query", "-W", "-f", "${Version}", "hey"])),
        ("h2load", first_line(["h2load", "--version"])),
    ]
    if shutil.which("oha"):
        found.append(("oha", first_line(["oha", "--version"])))
    return found


@dataclass
class Processors:
    """Time of all processors since boot, in ticks."""

    total: int
    stolen: int

    @staticmethod
    def now() -> "Processors":
        """Reads the current values."""
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        ticks = [int(field) for field in fields]
        return Processors(total=sum(ticks), stolen=ticks[7])

    def stolen_since(self, before: "Processors") -> float:
        """The share of time stolen by the host."""
        return (self.stolen - before.stolen) / max(1, self.total - before.total)
