"""The load generators: command lines for the same load, and parsers of their output."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .processes import CouldNotRun, Finished, run_generator
from .settings import CONNECTIONS, CONTENT_TYPE, PLIMSOLL, REQUEST, own_program

# plimsoll's exit codes with a summary: passed, run invalid, objective missed.
WITH_SUMMARY = (0, 98, 99)


@dataclass
class Exchanges:
    """What a generator completed, and its cost."""

    done: int
    failed: int
    finished: Finished
    # Duration of the load.
    seconds: float

    @property
    def cpu_us(self) -> float:
        """User and system time of the whole process, per exchange."""
        return self.finished.cpu_seconds * 1e6 / self.done

    @property
    def user_us(self) -> float:
        """User time per exchange."""
        return self.finished.user_seconds * 1e6 / self.done

    @property
    def per_second(self) -> float:
        """Exchanges per second."""
        return self.done / self.seconds


def plimsoll(args: list, seconds: float) -> tuple[dict, Finished]:
    """Runs plimsoll; returns its summary and its cost."""
    command = [PLIMSOLL, "run", "--no-out", "--format", "json", *args]
    finished = run_generator(command, seconds)
    if finished.code not in WITH_SUMMARY:
        message = finished.err.strip().splitlines()[-1:] or ["no message"]
        raise CouldNotRun(f"plimsoll exited with code {finished.code}: {message[0]}")
    try:
        return json.loads(finished.out), finished
    except json.JSONDecodeError as error:
        raise CouldNotRun(f"plimsoll's summary is not JSON: {error}") from error


def posting(address: str) -> list[str]:
    """plimsoll's flags for the benchmark request."""
    return ["--url", f"http://{address}/", "--body", REQUEST, "-H", f"Content-Type: {CONTENT_TYPE}"]


def invalid_because(summary: dict) -> str:
    """Why plimsoll reports a run as invalid; empty if it is valid."""
    verdict = summary["verdict"]
    if verdict["valid"]:
        return ""
    findings = [finding for finding in verdict["findings"] if finding["severity"] == "invalid"]
    return "; ".join(f"{finding['id']} ({finding['evidence']})" for finding in findings) or "invalid"


@dataclass
class Generator:
    """A generator of the closed model."""

    name: str
    program: str | Path
    # (address, seconds, folder for files) → arguments.
    arguments: Callable[[str, int, Path], list]
    # Output → (exchanges done, exchanges failed).
    read: Callable[[str], tuple[int, int]]

    def is_installed(self) -> bool:
        """Whether the program is installed."""
        return shutil.which(self.program) is not None

    def run(self, address: str, seconds: int, folder: Path) -> Exchanges:
        """One run of `seconds` against `address`."""
        command = [self.program, *self.arguments(address, seconds, folder)]
        finished = run_generator(command, seconds)
        if finished.code not in (WITH_SUMMARY if self.program == PLIMSOLL else (0,)):
            message = (finished.err or finished.out).strip().splitlines()[-1:] or ["no message"]
            raise CouldNotRun(f"{self.name} exited with code {finished.code}: {message[0]}")
        try:
            done, failed = self.read(finished.out)
        except (ValueError, KeyError, TypeError) as error:
            raise CouldNotRun(f"{self.name}'s output could not be parsed: {error}") from error
        if done == 0:
            raise CouldNotRun(f"{self.name} completed no exchange")
        return Exchanges(done, failed, finished, seconds)


def number(pattern: str, text: str, default: int | None = None) -> int:
    """The sum of all numbers matched by a pattern's group."""
    found = re.findall(pattern, text, re.MULTILINE)
    if not found and default is None:
        raise ValueError(f"no match for {pattern}")
    return sum(map(int, found)) if found else default


def plimsoll_arguments(address: str, seconds: int, _folder: Path) -> list:
    load = ["--users", CONNECTIONS, "--duration", f"{seconds}s"]
    return ["run", "--no-out", "--format", "json", *posting(address), *load]


def read_plimsoll(out: str) -> tuple[int, int]:
    requests = json.loads(out)["requests"]
    return requests["ok"], requests["failed"] + requests["unsent"]


def wrk_arguments(address: str, seconds: int, folder: Path) -> list:
    script = folder / "post.lua"
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = '{REQUEST}'\n"
        f"wrk.headers['Content-Type'] = '{CONTENT_TYPE}'\n"
    )
    return ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script, f"http://{address}/"]


def read_wrk(out: str) -> tuple[int, int]:
    failed = number(r"Non-2xx or 3xx responses: (\d+)", out, 0)
    for kind in ("connect", "read", "write", "timeout"):
        failed += number(rf"Socket errors:.*{kind} (\d+)", out, 0)
    return number(r"^\s*(\d+) requests in ", out), failed


def hey_arguments(address: str, seconds: int, _folder: Path) -> list:
    load = ["-z", f"{seconds}s", "-c", CONNECTIONS]
    return [*load, "-m", "POST", "-T", CONTENT_TYPE, "-d", REQUEST, f"http://{address}/"]


def read_hey(out: str) -> tuple[int, int]:
    ok = number(r"\[200\]\s+(\d+) responses", out)
    return ok, number(r"\[\d+\]\s+(\d+) responses", out) - ok


def h2load_arguments(address: str, seconds: int, folder: Path) -> list:
    body = folder / "body.json"
    body.write_text(REQUEST)
    load = ["--h1", "-t1", f"-c{CONNECTIONS}", f"--duration={seconds}"]
    return [*load, f"--data={body}", "-H", f"content-type: {CONTENT_TYPE}", f"http://{address}/"]


def read_h2load(out: str) -> tuple[int, int]:
    return number(r"status codes: (\d+) 2xx", out), number(r"(\d+) failed,", out, 0)


def oha_arguments(address: str, seconds: int, _folder: Path) -> list:
    load = ["-z", f"{seconds}s", "-c", CONNECTIONS, "--no-tui", "--output-format", "json"]
    return [*load, "-m", "POST", "-T", CONTENT_TYPE, "-d", REQUEST, f"http://{address}/"]


def read_oha(out: str) -> tuple[int, int]:
    statuses = json.loads(out)["statusCodeDistribution"]
    ok = statuses.get("200", 0)
    return ok, sum(statuses.values()) - ok


def bare_arguments(address: str, seconds: int, _folder: Path) -> list:
    return [address, CONNECTIONS, seconds]


def read_bare(out: str) -> tuple[int, int]:
    return json.loads(out)["exchanges"], 0


def closed_model() -> list[Generator]:
    """All generators of the closed model, plimsoll first and the bare loop last."""
    return [
        Generator("plimsoll", PLIMSOLL, plimsoll_arguments, read_plimsoll),
        Generator("wrk", "wrk", wrk_arguments, read_wrk),
        Generator("h2load", "h2load", h2load_arguments, read_h2load),
        Generator("oha", "oha", oha_arguments, read_oha),
        Generator("hey", "hey", hey_arguments, read_hey),
        Generator("bare-loop", own_program("bare-loop"), bare_arguments, read_bare),
    ]
