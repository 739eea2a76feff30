"""One coordinator and the snapshots of 1,000 agents: CPU, memory, and how far it is behind.

The agents are simulated: one connection to a real nats-server announces all of them, follows the coordinator's orders, and
publishes for each, at the end of each second, the line that a real agent recorded before. All lines of a second arrive
at once, as they do from agents that were started at the same instant.
"""

import json
import os
import queue
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from .machine import say
from .processes import CouldNotRun, free_port, running, status_bytes
from .settings import GENERATOR_CPU, PLIMSOLL, REQUEST, SERVER_CPU, Settings
from .tables import Section

AGENTS = 1000
# Of each agent: as in the background's guide.
RATE = 500
PROGRAM = Path(os.environ.get("PLIMSOLL", PLIMSOLL))
CPU_BAR = 0.5
DELAY_BAR = 0.5
MEMORY_BAR = 256
# An announcement expires after 10 s.
RENEW_SECONDS = 3


class Agents:
    """Simulated agents on one connection to NATS."""

    def __init__(self, port: int, lines: list[str]) -> None:
        self.lines = lines
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.reader = self.socket.makefile("rb")
        self.lock = threading.Lock()
        self.numbers = [0] * AGENTS
        self.version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True,
                                      check=True).stdout.split()[1]
        # By the number of the second: when its lines were sent.
        self.sent: dict[int, float] = {}
        self.started: queue.Queue[str] = queue.Queue()
        self.over = threading.Event()
        self.send(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n'
                  b"SUB plimsoll.default.run.*.order 1\r\n")
        threading.Thread(target=self.renew, daemon=True).start()
        threading.Thread(target=self.read, daemon=True).start()

    def send(self, data: bytes) -> None:
        """Sends protocol lines."""
        with self.lock:
            self.socket.sendall(data)

    def renew(self) -> None:
        """Announces all agents again and again."""
        while not self.over.is_set():
            announced = b""
            for index in range(AGENTS):
                body = json.dumps({"schema": "plimsoll/agent/1", "name": f"a{index}", "session": f"s{index}",
                                   "version": self.version, "labels": {}, "cpus": 2, "allow": [], "findings": []}).encode()
                announced += b"PUB $KV.plimsoll_default_agents.a%d %d\r\n%b\r\n" % (index, len(body), body)
            self.send(announced)
            self.over.wait(RENEW_SECONDS)

    def read(self) -> None:
        """Follows orders."""
        while line := self.reader.readline():
            if line.startswith(b"PING"):
                self.send(b"PONG\r\n")
            elif line.startswith((b"MSG", b"HMSG")):
                words = line.split()
                head = int(words[-2]) if line.startswith(b"HMSG") else 0
                payload = self.reader.read(int(words[-1]) + 2)[head:-2]
                self.follow(json.loads(payload))

    def follow(self, order: dict) -> None:
        """Does what an order says."""
        run = order["run"]
        match order["what"]:
            case {"begin": _}:
                self.report(run, {"ready": {"workers": 2, "bound_ns": 100_000}})
            case {"start": {"at_unix_ns": at}}:
                threading.Thread(target=self.work, args=(run, at / 1e9), daemon=True).start()

    def work(self, run: str, start: float) -> None:
        """Reports second after second."""
        header, *seconds, end = self.lines
        time.sleep(max(0.0, start - time.time()))
        self.report(run, {"started": {"line": header, "skew_ns": 0, "bound_ns": 100_000}})
        self.started.put(run)
        for number, line in enumerate(seconds, 1):
            t_ns = json.loads(line)["t_ns"]
            time.sleep(max(0.0, start + t_ns / 1e9 - time.time()))
            self.sent[number] = time.monotonic()
            self.report(run, {"second": {"t_ns": t_ns, "line": line}})
        self.report(run, {"ended": {"line": end}})

    def report(self, run: str, what: dict) -> None:
        """Publishes the same report of all agents."""
        text = json.dumps(what)
        messages = []
        for index in range(AGENTS):
            self.numbers[index] += 1
            body = (f'{{"schema":"plimsoll/report/1","run":"{run}","agent":"a{index}","session":"s{index}",'
                    f'"number":{self.numbers[index]},"what":{text}}}').encode()
            head = f"NATS/1.0\r\nNats-Msg-Id: {run}.a{index}.s{index}.{self.numbers[index]}\r\n\r\n".encode()
            messages.append(b"HPUB plimsoll.default.run.%b.report.a%d %d %d\r\n%b%b\r\n"
                            % (run.encode(), index, len(head), len(head) + len(body), head, body))
        self.send(b"".join(messages))


def plan(folder: Path, node: str, seconds: int, rate: int) -> Path:
    """Four targets, as four chains would be."""
    text = f'name = "scale"\nseed = 1\n[[stream]]\nname = "all"\nrate = {rate}\nduration = "{seconds}s"\n'
    for name in ["eth", "boba", "mantle", "kava"]:
        text += f"[[stream.target]]\nname = \"{name}\"\nrequest = \"POST http://{node}/{name}\"\nbody = '{REQUEST}'\n"
    path = folder / "plan.toml"
    path.write_text(text)
    return path


def recorded(folder: Path, seconds: int) -> list[str]:
    """The lines of a real agent."""
    port = free_port()
    out = folder / "recorded"
    with running([PROGRAM, "sim", "chain", "--listen", f"127.0.0.1:{port}"], port) as node:
        done = subprocess.run(
            [PROGRAM, "fleet", plan(folder, node.address, seconds, RATE), "--local", "1", "--out", out],
            capture_output=True, text=True)
        if not out.exists():
            raise CouldNotRun(f"plimsoll fleet: {done.stderr}")
    return (out / "agents" / "local-1.jsonl").read_text().splitlines()


def cpu_seconds(pid: int) -> float:
    """CPU time of a running process."""
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def arrivals(file: Path, count: int, process: subprocess.Popen) -> dict[int, float]:
    """When each second of an agent was in the coordinator's file."""
    seen: dict[int, float] = {}
    deadline = time.monotonic() + count + 60
    while len(seen) < count and process.poll() is None and time.monotonic() < deadline:
        # One line is the header.
        lines = file.read_bytes().count(b"\n") - 1 if file.exists() else 0
        for number in range(len(seen) + 1, min(lines, count) + 1):
            seen[number] = time.monotonic()
        time.sleep(0.005)
    return seen


def measure(section: Section, settings: Settings) -> None:
    """Measures the coordinator."""
    seconds = 10 if settings.quick else 40
    section.title = f"Fleet: one coordinator and {AGENTS:,} simulated agents"
    section.method = (
        f"Each agent reports the seconds of a real one at {RATE}/s with four targets, {seconds} s; all of a second at once. The "
        f"coordinator has processor {GENERATOR_CPU}, nats-server and agents the other. Delay: until the line of the last agent is in the "
        "coordinator's run directory."
    )
    if not shutil.which("nats-server"):
        raise CouldNotRun("nats-server is not installed")
    with tempfile.TemporaryDirectory(prefix="plimsoll-bench-") as name:
        folder = Path(name)
        lines = recorded(folder, seconds)
        port = free_port()
        command = ["nats-server", "-a", "127.0.0.1", "-p", port, "-js", "-sd", folder / "nats"]
        with running(command, port) as server:
            url = f"nats://{server.address}"
            subprocess.run([PROGRAM, "agents", "--nats", url], check=True, capture_output=True)
            agents = Agents(port, lines)
            figures = coordinated(folder, url, agents, len(lines) - 2)
    size = sum(map(len, lines[1:-1])) / (len(lines) - 2)
    table = section.table("figure", "value")
    for row in figures.items():
        table.add(*row)
    table.add("bytes of a second of an agent", f"{size:,.0f}")
    say("fleet: " + ", ".join(f"{name} {value}" for name, value in figures.items()))
    section.bar("CPU of one core", figures["CPU of one core during the run"], f"≤ {CPU_BAR}",
                float(figures["CPU of one core during the run"]) <= CPU_BAR)
    section.bar("delay, largest, s", figures["delay, largest, s"], f"≤ {DELAY_BAR}",
                float(figures["delay, largest, s"]) <= DELAY_BAR)
    section.bar("memory, MiB", figures["memory, largest, MiB"], f"≤ {MEMORY_BAR}",
                float(figures["memory, largest, MiB"]) <= MEMORY_BAR)


def coordinated(folder: Path, url: str, agents: Agents, seconds: int) -> dict[str, str]:
    """Runs the coordinator; returns its figures."""
    out = folder / "out"
    with (folder / "coordinator.log").open("w") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(GENERATOR_CPU), PROGRAM, "run", folder / "plan.toml", "--nats", url, "--agents",
             str(AGENTS), "--wait", "60s", "--out", out], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        os.sched_setaffinity(0, {SERVER_CPU})
        agents.started.get(timeout=120)
        before, began = cpu_seconds(process.pid), time.monotonic()
        seen = arrivals(out / "agents" / f"a{AGENTS - 1}.jsonl", seconds, process)
        spent, lasted = cpu_seconds(process.pid) - before, time.monotonic() - began
        peak = status_bytes(process.pid, "VmHWM")
        ended = time.monotonic()
        while process.poll() is None and time.monotonic() < ended + 300:
            peak = max(peak, status_bytes(process.pid, "VmHWM"))
            time.sleep(0.02)
        report = time.monotonic() - ended
    except queue.Empty:
        raise CouldNotRun(f"the run did not start:\n{(folder / 'coordinator.log').read_text()[-800:]}") from None
    finally:
        agents.over.set()
        if process.poll() is None:
            process.kill()
            process.wait()
    if len(seen) < seconds or not (out / "summary.json").exists():
        raise CouldNotRun(f"the run did not end:\n{(folder / 'coordinator.log').read_text()[-800:]}")
    delays = [seen[number] - agents.sent[number] for number in seen]
    return {
        "CPU of one core during the run": f"{spent / lasted:.2f}",
        "delay, median, s": f"{median(delays):.3f}",
        "delay, largest, s": f"{max(delays):.3f}",
        "memory, largest, MiB": f"{peak / 2**20:.0f}",
        "report after the last second, s": f"{report:.1f}",
    }
