"""Starts programs, measures what they cost, and leaves none behind."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .settings import ANSWER, CONTENT_TYPE, GENERATOR_CPU, SERVER_CPU, Settings, own_program

# How often a running program is looked at: often enough to catch its peak memory just before it
# ends, seldom enough to cost nothing (on the server's processor).
POLL_SECONDS = 0.02
# A server that takes no connection by then will not.
START_SECONDS = 10
# A server that has not gone by then is killed.
STOP_SECONDS = 3


class CouldNotRun(Exception):
    """Something is missing or failed; the rest goes on without it."""


@dataclass
class Finished:
    """What a program said, and what it cost."""

    code: int
    out: str
    err: str
    cpu_seconds: float
    user_seconds: float
    wall_seconds: float
    # VmHWM rather than ru_maxrss: the latter starts at the size of whoever forked the program.
    rss_peak_bytes: int


def pinned(cpu: int, argv: list) -> list[str]:
    """The command line that runs `argv` on one processor."""
    return ["taskset", "-c", str(cpu), *map(str, argv)]


def run_generator(argv: list, seconds: float) -> Finished:
    """Runs a generator to its end on its processor; `seconds` is how long it should take."""
    command = pinned(GENERATOR_CPU, argv)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        except OSError as error:
            raise CouldNotRun(f"{argv[0]}: {error}") from error
        try:
            # Twice the time and a minute: a program that hangs must not hang the bench.
            usage, peak = reap(process, started + 2 * seconds + 60)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        wall = time.monotonic() - started
        return Finished(
            code=process.returncode,
            out=whole(out),
            err=whole(err),
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            user_seconds=usage.ru_utime,
            wall_seconds=wall,
            rss_peak_bytes=peak,
        )


def whole(file) -> str:
    """All that was written to a file."""
    file.seek(0)
    return file.read().decode(errors="replace")


def reap(process: subprocess.Popen, deadline: float):
    """Waits for the end; the whole process's usage and its peak resident size in bytes."""
    peak = 0
    while True:
        peak = max(peak, status_bytes(process.pid, "VmHWM"))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage, peak
        if time.monotonic() > deadline:
            raise CouldNotRun(f"{' '.join(process.args[3:5])} did not end in time")
        time.sleep(POLL_SECONDS)


def status_bytes(pid: int, name: str) -> int:
    """One of the kernel's figures of a process's memory; 0 when it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Server:
    """A server that runs."""

    address: str
    pid: int


@contextmanager
def running(argv: list, port: int, cpus: str = str(SERVER_CPU)) -> Iterator[Server]:
    """Keeps a server running on these processors."""
    with tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                ["taskset", "-c", cpus, *map(str, argv)], stdin=subprocess.DEVNULL, stderr=err
            )
        except OSError as error:
            raise CouldNotRun(f"{argv[0]}: {error}") from error
        try:
            wait_until_it_listens(process, argv, port, err)
            yield Server(f"127.0.0.1:{port}", process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def server(argv: list, port: int) -> Iterator[str]:
    """Keeps a server running on its processor; gives its address."""
    with running(argv, port) as started:
        yield started.address


def wait_until_it_listens(process: subprocess.Popen, argv: list, port: int, err) -> None:
    """Returns when the port takes a connection."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = whole(err).strip().splitlines()[-1:] or ["nothing"]
            raise CouldNotRun(
                f"{argv[0]} ended at once, with code {process.returncode}, and said: {said[0]}"
            )
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(POLL_SECONDS)
    raise CouldNotRun(f"{argv[0]} does not listen on port {port}")


def first_child(pid: int) -> int:
    """The first process that a process has started; nginx listens before its worker is there."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(POLL_SECONDS)
    raise CouldNotRun(f"process {pid} started no other")


NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 65536;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log crit;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  default_type {content_type};
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {upstream}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ {action} }}
  }}
}}
"""


@contextmanager
def nginx_that(settings: Settings, action: str, upstream: str = "") -> Iterator[Server]:
    """One nginx worker that does `action` with every request; what is given is the worker's."""
    if not shutil.which("nginx"):
        raise CouldNotRun("nginx is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="nginx-", dir=settings.folder) as folder:
        file = Path(folder) / "nginx.conf"
        file.write_text(
            NGINX.format(folder=folder, port=port, upstream=upstream, action=action,
                         content_type=CONTENT_TYPE)
        )
        argv = ["nginx", "-p", folder, "-e", f"{folder}/nginx.log", "-c", file]
        with running(argv, port) as master:
            yield Server(master.address, first_child(master.pid))


@contextmanager
def nginx(settings: Settings) -> Iterator[str]:
    """The server that is asked: one worker that answers from its configuration."""
    with nginx_that(settings, f"return 200 '{ANSWER}';") as worker:
        yield worker.address


@contextmanager
def stall_server(period: int, hold: int) -> Iterator[str]:
    """The server that holds its answers for `hold` in every `period` seconds."""
    port = free_port()
    argv = [own_program("stall-server"), f"127.0.0.1:{port}", period, hold]
    with server(argv, port) as address:
        yield address
