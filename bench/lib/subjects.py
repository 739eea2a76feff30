"""The gateway and the proxies it is compared with, all in front of the same node."""

import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .generators import invalid_because, plimsoll
from .processes import CouldNotRun, Server, free_port, nginx_with_action, running, status_bytes
from .settings import (
    CONNECTIONS, CONTENT_TYPE, GENERATOR_CPU, PLIMSOLL, SERVER_CPU, Settings, own_program,
)
from .tables import Section

# All get the same request, byte for byte; only the gateway interprets its path.
PATH = "/api/gateway?endpoint=ethpath_1"
GATEWAY = """
listen = ["127.0.0.1:{port}"]
workers = {workers}
database = "{database}"
{settings}
[[upstream]]
id = "node"
service = "eth"
url = "http://{node}"
[[endpoint]]
id = "ethpath_1"
service = "eth"
{endpoint}"""
HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend clients
  bind 127.0.0.1:{port} backlog 4096
  default_backend nodes
backend nodes
  http-reuse always
  server node {node}
"""
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def call(method: str, params: str = "[]") -> str:
    """The body of a call."""
    return f'{{"jsonrpc":"2.0","method":"{method}","params":{params},"id":1}}'


def cpu_seconds(pid: int) -> float:
    """User and system time used by all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


@dataclass
class Calls:
    """One run against a server: the generator's summary, and the server's CPU time."""

    summary: dict
    server_cpu_seconds: float

    @property
    def ok(self) -> int:
        """Calls that succeeded."""
        return self.summary["requests"]["ok"]

    @property
    def cpu_us(self) -> float:
        """The server's CPU time per call."""
        return self.server_cpu_seconds * 1e6 / self.ok

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return self.summary["rate"]["ok"]

    @property
    def busy(self) -> float:
        """The server's share of one processor, in percent."""
        return self.server_cpu_seconds * 1e11 / self.summary["duration_ns"]

    def latency_us(self, percentile: str) -> float:
        """Latency from the instant at which a call was due."""
        return self.summary["latency"][percentile] / 1e3


@dataclass
class Subject:
    """A running server, with its name in the tables."""

    name: str
    server: Server
    path: str = PATH
    headers: list[str] = field(default_factory=list)

    def run(self, section: Section, body: str, load: list, seconds: float) -> Calls:
        """Runs the generator once with this request; notes failed calls and invalid runs."""
        args = ["--url", f"http://{self.server.address}{self.path}", "--body", body]
        for header in (f"Content-Type: {CONTENT_TYPE}", *self.headers):
            args += ["-H", header]
        args += load
        before = cpu_seconds(self.server.pid)
        summary, _ = plimsoll(args, seconds)
        calls = Calls(summary, cpu_seconds(self.server.pid) - before)
        requests = summary["requests"]
        if calls.ok == 0:
            raise CouldNotRun(f"{self.name} answered nothing: {summary['errors']}")
        if requests["ok"] != requests["scheduled"]:
            section.note(f"{self.name}: {requests['failed']:,} failed, {requests['unsent']:,} unsent "
                         f"of {requests['scheduled']:,}: {summary['errors']}")
        if reason := invalid_because(summary):
            section.note(f"{self.name}: plimsoll reports a run as invalid: {reason}")
        return calls

    def at_full_speed(self, section: Section, body: str, seconds: int) -> Calls:
        """Runs the closed model."""
        load = ["--users", CONNECTIONS, "--duration", f"{seconds}s"]
        return self.run(section, body, load, seconds)

    def at_rate(self, section: Section, body: str, rate: int, seconds: int) -> Calls:
        """Runs the open model."""
        load = ["--rate", f"{rate}/s", "--duration", f"{seconds}s", "--connections", CONNECTIONS]
        return self.run(section, body, load, seconds)

    def answer(self, sent: str) -> str:
        """Makes one request and returns the body of the answer."""
        request = urllib.request.Request(
            f"http://{self.server.address}{self.path}", sent.encode(),
            {"Content-Type": CONTENT_TYPE} | dict(one.split(": ", 1) for one in self.headers),
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                body = response.read().decode()
        except OSError as error:
            raise CouldNotRun(f"{self.name}: {error}") from error
        if "result" not in json.loads(body):
            raise CouldNotRun(f"{self.name} answered {body}")
        return body

    def resident(self) -> int:
        """Current resident memory in bytes."""
        return status_bytes(self.server.pid, "VmRSS")

    def resident_peak(self) -> int:
        """Peak resident memory in bytes."""
        return status_bytes(self.server.pid, "VmHWM")


@contextmanager
def node(section: Section) -> Iterator[Subject]:
    """Runs the node that every proxy relays to.

    It shares the generator's processor, with priority over it: otherwise its waiting for a busy
    generator, up to milliseconds, would be measured.
    """
    port = free_port()
    argv = [own_program("echo-node"), f"127.0.0.1:{port}"]
    first = ["chrt", "--fifo", "1"]
    if subprocess.run([*first, "true"], stderr=subprocess.DEVNULL).returncode == 0:
        argv = [*first, *argv]
    else:
        section.note("the node could not be given priority over the generator: latencies are not reliable")
    with running(argv, port, str(GENERATOR_CPU)) as server:
        yield Subject("direct to the node", server)


@contextmanager
def gateway(
    settings: Settings, node: str, workers: int = 1, more: str = "", endpoint: str = "",
    database: str | None = None,
) -> Iterator[Subject]:
    """Runs Plimsoll's gateway; with more than one worker, on both processors.

    `node` is the node's address, perhaps with a path; `more` are settings, `endpoint` keys of the endpoint.
    """
    port = free_port()
    cpus = str(SERVER_CPU) if workers == 1 else f"{SERVER_CPU},{GENERATOR_CPU}"
    with tempfile.TemporaryDirectory(prefix="gateway-", dir=settings.folder) as folder:
        file = Path(folder) / "gateway.toml"
        file.write_text(
            GATEWAY.format(port=port, workers=workers, node=node, settings=more, endpoint=endpoint,
                           database=database or f"sqlite:{folder}/registry.db")
        )
        with running([PLIMSOLL, "gateway", "--config", file], port, cpus) as server:
            yield Subject("plimsoll", server)


@contextmanager
def nginx_answering(settings: Settings, answer: str) -> Iterator[Subject]:
    """Runs nginx that answers from its configuration."""
    with nginx_with_action(settings, f"return 200 '{answer}';") as server:
        yield Subject("nginx", server)


@contextmanager
def nginx_relaying(settings: Settings, node: str) -> Iterator[Subject]:
    """Runs nginx with keep-alive connections to the node."""
    upstream = f"upstream node {{ server {node}; keepalive 128; keepalive_requests 1000000000; }}"
    action = 'proxy_pass http://node; proxy_http_version 1.1; proxy_set_header Connection "";'
    with nginx_with_action(settings, action, upstream) as server:
        yield Subject("nginx", server)


@contextmanager
def haproxy(settings: Settings, node: str) -> Iterator[Subject]:
    """Runs HAProxy with one thread and keep-alive connections on both sides."""
    if not shutil.which("haproxy"):
        raise CouldNotRun("haproxy is not installed")
    port = free_port()
    file = settings.folder / "haproxy.cfg"
    file.write_text(HAPROXY.format(port=port, node=node))
    with running(["haproxy", "-db", "-f", file], port) as server:
        yield Subject("haproxy", server)


@contextmanager
def hyper_relay(_settings: Settings, node: str) -> Iterator[Subject]:
    """Runs hyper-relay, the lower bound for a proxy built on a library."""
    port = free_port()
    with running([own_program("hyper-relay"), f"127.0.0.1:{port}", node], port) as server:
        yield Subject("hyper-relay", server)


def start(
    section: Section, stack: ExitStack, starts: list[Callable[[], AbstractContextManager[Subject]]]
) -> list[Subject]:
    """Starts the servers; notes those that cannot be started."""
    subjects = []
    for begin in starts:
        try:
            subjects.append(stack.enter_context(begin()))
        except CouldNotRun as reason:
            section.note(f"could not run: {reason}")
    return subjects
