"""Starts programs, measures their cost, and stops them."""

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

# How often a running program is polled: often enough to catch its peak memory just before it
# exits, rarely enough to cost nothing (on the server's processor).
POLL_SECONDS = 0.02
# How long a server may take to accept connections.
START_SECONDS = 10
# How long a server may take to stop before it is killed.
STOP_SECONDS = 3


class CouldNotRun(Exception):
    """Something is missing or has failed; the rest continues."""


@dataclass
class Finished:
    """The output of a program, and its cost."""

    code: int
    out: str
    err: str
    cpu_seconds: float
    user_seconds: float
    wall_seconds: float
    # VmHWM rather than ru_maxrss: the latter starts at the size of the process that forked.
    rss_peak_bytes: int


def pinned(cpu: int, argv: list) -> list[str]:
    """The command line that runs `argv` on one processor."""
    return ["taskset", "-c", str(cpu), *map(str, argv)]


def run_generator(argv: list, seconds: float) -> Finished:
    """Runs a generator on its processor until it exits; `seconds` is its expected run time."""
    command = pinned(GENERATOR_CPU, argv)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        except OSError as error:
            raise CouldNotRun(f"{argv[0]}: {error}") from error
        try:
            # Twice the time plus a minute: a hanging program must not hang the bench.
            usage, peak = reap(process, started + 2 * seconds + 60)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        wall = time.monotonic() - started
        return Finished(
            code=process.returncode,
            out=content_of(out),
            err=content_of(err),
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            user_seconds=usage.ru_utime,
            wall_seconds=wall,
            rss_peak_bytes=peak,
        )


def content_of(file) -> str:
    """The whole content of a file."""
    file.seek(0)
    return file.read().decode(errors="replace")


def reap(process: subprocess.Popen, deadline: float):
    """Waits for a process to exit; returns its resource usage and its peak resident size in bytes."""
    peak = 0
    while True:
        peak = max(peak, status_bytes(process.pid, "VmHWM"))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage, peak
        if time.monotonic() > deadline:
            raise CouldNotRun(f"{' '.join(process.args[3:5])} did not exit in time")
        time.sleep(POLL_SECONDS)


def status_bytes(pid: int, name: str) -> int:
    """A memory figure from /proc/PID/status, in bytes; 0 if the process has exited."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return 0


def free_port() -> int:
    """A free port on the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Server:
    """A running server."""

    address: str
    pid: int


@contextmanager
def running(argv: list, port: int, cpus: str = str(SERVER_CPU)) -> Iterator[Server]:
    """Runs a server on these processors."""
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
    """Runs a server on its processor; yields its address."""
    with running(argv, port) as started:
        yield started.address


def wait_until_it_listens(process: subprocess.Popen, argv: list, port: int, err) -> None:
    """Waits until the port accepts a connection."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            message = content_of(err).strip().splitlines()[-1:] or ["no message"]
            raise CouldNotRun(
                f"{argv[0]} exited at once with code {process.returncode}: {message[0]}"
            )
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(POLL_SECONDS)
    raise CouldNotRun(f"{argv[0]} does not listen on port {port}")


def first_child(pid: int) -> int:
    """Waits for the first child of a process: nginx listens before it has started its worker."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(POLL_SECONDS)
    raise CouldNotRun(f"process {pid} has started no child")


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
    listen 127.0.0.1:{port} backlog=4096 {listen};
    location / {{ {action} }}
  }}
}}
"""


@contextmanager
def nginx_with_action(
    settings: Settings, action: str, upstream: str = "", listen: str = ""
) -> Iterator[Server]:
    """Runs nginx with one worker that applies `action` to every request; yields the worker."""
    if not shutil.which("nginx"):
        raise CouldNotRun("nginx is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="nginx-", dir=settings.folder) as folder:
        file = Path(folder) / "nginx.conf"
        file.write_text(
            NGINX.format(folder=folder, port=port, upstream=upstream, action=action, listen=listen,
                         content_type=CONTENT_TYPE)
        )
        argv = ["nginx", "-p", folder, "-e", f"{folder}/nginx.log", "-c", file]
        with running(argv, port) as master:
            yield Server(master.address, first_child(master.pid))


@contextmanager
def nginx(settings: Settings) -> Iterator[str]:
    """Runs nginx with one worker that answers from its configuration; yields its address."""
    with nginx_with_action(settings, f"return 200 '{ANSWER}';") as worker:
        yield worker.address


@contextmanager
def stall_server(period: int, hold: int) -> Iterator[str]:
    """Runs the server that holds its answers for `hold` in every `period` seconds."""
    port = free_port()
    argv = [own_program("stall-server"), f"127.0.0.1:{port}", period, hold]
    with server(argv, port) as address:
        yield address
