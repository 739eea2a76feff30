"""Ten hosts as network namespaces: option A and B of the background's guide, and what fails in a fleet.

Each host is a namespace with one end of a veth pair; the other ends are in a bridge. NATS, the chains and
the coordinator have a host each, so that a host can be cut off from one of them and not from the others. Needs root.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .proofs import ROOT
from .settings import PLIMSOLL

PROGRAM = Path(os.environ.get("PLIMSOLL", PLIMSOLL))
# With their ports.
CHAINS = {"eth": 8545, "boba": 8546, "mantle": 8547, "kava": 8548}
NATS, CHAIN, COORDINATOR = 2, 3, 4
AGENTS = 10
NETWORK = "10.77.0."
# How long a process may take to be there.
START_SECONDS = 20


def address(host: int) -> str:
    """The address of a host."""
    return f"{NETWORK}{host}"


def ip(*argv: str) -> None:
    """Runs ip."""
    subprocess.run(["ip", *argv], check=True, capture_output=True, text=True)


def inside(host: int, *argv: object) -> list[str]:
    """A command line on a host."""
    return ["ip", "netns", "exec", f"plf-{host}", *map(str, argv)]


@contextmanager
def network() -> Iterator[None]:
    """The bridge and the hosts."""
    hosts = [NATS, CHAIN, COORDINATOR, *(10 + i for i in range(AGENTS))]
    names = ["plf-hub", *(f"plf-{host}" for host in hosts)]
    try:
        ip("netns", "add", "plf-hub")
        ip("-n", "plf-hub", "link", "add", "bridge", "type", "bridge")
        ip("-n", "plf-hub", "link", "set", "bridge", "up")
        for host in hosts:
            ip("netns", "add", f"plf-{host}")
            ip("-n", f"plf-{host}", "link", "add", "eth0", "type", "veth", "peer", "name", f"p{host}", "netns", "plf-hub")
            ip("-n", "plf-hub", "link", "set", f"p{host}", "master", "bridge", "up")
            ip("-n", f"plf-{host}", "address", "add", f"{address(host)}/24", "dev", "eth0")
            ip("-n", f"plf-{host}", "link", "set", "eth0", "up")
            ip("-n", f"plf-{host}", "link", "set", "lo", "up")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@dataclass
class Fleet:
    """The processes of a case."""

    folder: Path
    nats: subprocess.Popen | None = None
    agents: list[subprocess.Popen] = field(default_factory=list)

    def log(self, name: str) -> Path:
        """The log of a process."""
        return self.folder / f"{name}.log"

    def spawn(self, name: str, host: int, *argv: object, before: tuple[str, ...] = ()) -> subprocess.Popen:
        """Starts a process on a host."""
        with self.log(name).open("a") as log:
            return subprocess.Popen(inside(host, *before, *argv), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def start_nats(self) -> None:
        """Starts NATS, with the files of an earlier process if there was one."""
        self.nats = self.spawn("nats", NATS, "nats-server", "-a", address(NATS), "-js", "-sd", self.folder / "js")

    def start_agent(self, number: int, label: str, url: str, before: tuple[str, ...] = ()) -> None:
        """Starts an agent."""
        self.agents.append(self.spawn(
            f"agent-{number}", 9 + number, PROGRAM, "agent", "--nats", url, "--name", f"agent-{number}",
            "--label", label, "--allow", address(CHAIN), before=before))

    def counts(self) -> dict[str, int]:
        """The calls that each chain received."""
        urls = [f"http://{address(CHAIN)}:{port}/sim/counts" for port in CHAINS.values()]
        done = subprocess.run(inside(COORDINATOR, "curl", "-s", *urls), check=True, capture_output=True, text=True)
        counts = done.stdout.replace("}{", "}\n{").splitlines()
        return {chain: json.loads(own)["requests"] for chain, own in zip(CHAINS, counts, strict=True)}


def until(what: str, holds: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Waits until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise subprocess.CalledProcessError(1, f"waiting: {what}")
        time.sleep(0.05)


def kill(process: subprocess.Popen) -> None:
    """Kills a process: ip replaces itself by it."""
    process.kill()
    process.wait()


@contextmanager
def fleet(labels: list[str], before: dict[int, tuple[str, ...]] | None = None, slow: int | None = None) -> Iterator[Fleet]:
    """Chains, NATS and agents; `slow` is an agent that reaches NATS through a proxy that delays."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plimsoll-fleet-")))
        own = Fleet(folder)
        started = []
        try:
            for chain, port in CHAINS.items():
                started.append(own.spawn(chain, CHAIN, PROGRAM, "sim", "chain", "--service", chain,
                                         "--listen", f"{address(CHAIN)}:{port}"))
            own.start_nats()
            started.append(own.nats)
            until("NATS", lambda: "Server is ready" in own.log("nats").read_text())
            for number, label in enumerate(labels, 1):
                reached = f"nats://{address(NATS)}:4222"
                if number == slow:
                    proxy = own.spawn("proxy", 9 + number, PROGRAM, "sim", "fault", "--listen", "127.0.0.1:4222",
                                      "--to", f"{address(NATS)}:4222", "--delay", "100ms", "--jitter", "50ms")
                    started.append(proxy)
                    time.sleep(1)
                    reached = "nats://127.0.0.1:4222"
                own.start_agent(number, label, reached, (before or {}).get(number, ()))
            until("agents", lambda: all("waits for orders" in own.log(f"agent-{n}").read_text()
                                        for n in range(1, len(labels) + 1)))
            yield own
        finally:
            for process in [*own.agents, own.nats, *started]:
                if process and process.poll() is None:
                    kill(process)


@dataclass
class Run:
    """A run in a fleet."""

    fleet: Fleet
    process: subprocess.Popen
    out: Path
    argv: list[str]

    def finish(self, seconds: float) -> dict:
        """Waits for its end; returns its summary."""
        try:
            self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                kill(self.process)
        summary = self.out / "summary.json"
        if not summary.exists():
            text = self.fleet.log("coordinator").read_text()[-1500:]
            raise subprocess.CalledProcessError(self.process.returncode, f"plimsoll run\n{text}")
        return json.loads(summary.read_text())

    def name(self) -> str:
        """The run's name."""
        return re.search(r"run (\S+) over", self.fleet.log("coordinator").read_text())[1]


def run(own: Fleet, plan: Path, *argv: str) -> Run:
    """Starts a run."""
    out = own.folder / "out"
    argv = [str(PROGRAM), "run", str(plan), "--nats", f"nats://{address(NATS)}:4222", "--agents",
            str(len(own.agents)), "--out", str(out), *argv]
    return Run(own, own.spawn("coordinator", COORDINATOR, *argv), out, argv)


def small_plan(folder: Path, seconds: int, rate: int = 500) -> Path:
    """Four chains, of which each agent may send each."""
    text = 'name = "fleet"\nseed = 3\ntimeout = "2s"\n'
    for chain in CHAINS:
        body = '{"jsonrpc":"2.0","method":"eth_blockNumber","params":[],"id":1}'
        text += (f'[[stream]]\nname = "{chain}"\nrate = {rate // len(CHAINS)}\nduration = "{seconds}s"\n'
                 f'[[stream.target]]\nname = "{chain}"\ntags = {{ chain = "{chain}" }}\n'
                 f'request = "POST http://{address(CHAIN)}:{CHAINS[chain]}/{chain}"\nbody = \'{body}\'\n')
    plan = folder / "plan.toml"
    plan.write_text(text)
    return plan


def by_chain(summary: dict) -> dict[str, int]:
    """Requests that the report counts as sent, by chain."""
    tags = summary["tags"]["chain"]
    names = {"ethereum": "eth"}
    return {names.get(chain, chain): own["requests"]["sent"] for chain, own in tags.items()}


def skew(summary: dict) -> str:
    """The largest start skew, with its bound."""
    rows = [row for row in summary["agents"] if row.get("start_skew_ns") is not None]
    worst = max(rows, key=lambda row: abs(row["start_skew_ns"]), default=None)
    if worst is None:
        return "–"
    return f"{abs(worst['start_skew_ns']) / 1e6:.2f} ± {worst['start_skew_bound_ns'] / 1e6:.2f} ms"


@dataclass
class Case:
    """A row of the table."""

    name: str
    planned: int
    summary: dict
    received: dict[str, int]
    exact: bool = True

    def holds(self) -> bool:
        """Whether every planned request is counted once, and both ends agree as far as they can."""
        requests = self.summary["requests"]
        if requests["scheduled"] != self.planned or requests["scheduled"] != requests["sent"] + requests["unsent"]:
            return False
        sent, received = by_chain(self.summary), self.received
        if self.exact and requests["failed"] == 0:
            return sent == received
        if self.exact:
            # A request that timed out may not have been read.
            return all(sent[chain] - requests["failed"] <= received[chain] <= sent[chain] for chain in sent)
        # A killed agent takes up to a second of counts with it: the chain saw them, the report has them as unsent.
        return all(sent[chain] <= received[chain] for chain in sent)

    def row(self) -> str:
        """As a row."""
        requests = self.summary["requests"]
        lost = sum(1 for row in self.summary["agents"] if row.get("lost_at_ns") is not None)
        received = sum(self.received.values())
        mark = "equal" if by_chain(self.summary) == self.received else f"{received - requests['sent']:+,} at the chains"
        errors = ", ".join(f"{name} {n:,}" for name, n in self.summary["errors"].items() if name != "agent_lost")
        verdict = ("holds" if self.holds() else "**FAILS**") + (f"; {errors}" if errors else "")
        return (f"| {self.name} | {self.planned:,} | {requests['sent']:,} | {requests['unsent']:,} | {lost} | "
                f"{mark} | {skew(self.summary)} | {verdict} |")


def option(name: str, plan: str, labels: list[str], environment: dict[str, str], seconds: int) -> Case:
    """An option of the guide, as its scenario has it: 5,000/s from ten hosts."""
    with fleet(labels) as own:
        sets = [f"--set={key}={value}" for key, value in environment.items()]
        finished = run(own, ROOT / "scenarios" / plan, *sets).finish(seconds + 120)
        return Case(name, 5000 * seconds, finished, own.counts())


def option_a(seconds: int) -> Case:
    """Hosts 1 and 2 Ethereum, 3 and 4 Boba, …, 9 and 10 mixed."""
    # The scenario has one gateway; here each chain has an address.
    target = {"GATEWAY": f"http://{address(CHAIN)}", "ENDPOINT_PATH": ":", "DURATION": f"{seconds}s",
              **{f"{chain.upper()}_ENDPOINT_ID": f"{port}/{chain}" for chain, port in CHAINS.items()}}
    return option("option A: a chain for each pair of hosts, two mixed", "chains-by-host.toml",
                  [f"host={i}" for i in range(1, AGENTS + 1)], target, seconds)


def option_b(seconds: int) -> Case:
    """Hosts 1 to 4 Ethereum, 5 and 6 Boba, 7 and 8 Mantle, 9 and 10 Kava."""
    chains = ["eth"] * 4 + ["boba"] * 2 + ["mantle"] * 2 + ["kava"] * 2
    with fleet([f"chain={chain}" for chain in chains]) as own:
        plan = small_plan(own.folder, seconds, 4000)
        text = plan.read_text().replace("rate = 1000", "rate = 2000", 1)
        for chain in CHAINS:
            text = text.replace(f'name = "{chain}"\nrate', f'name = "{chain}"\nagents = {{ chain = "{chain}" }}\nrate')
        plan.write_text(text)
        finished = run(own, plan).finish(seconds + 120)
        return Case("option B: hosts for each chain", 5000 * seconds, finished, own.counts())


def with_fault(name: str, seconds: int, policy: str, fault: Callable[[Fleet, Run], Run | None], exact: bool,
               **kwargs: object) -> Case:
    """A run of 500/s over ten agents, during which something fails 5 s after the start."""
    with fleet([f"host={i}" for i in range(1, AGENTS + 1)], **kwargs) as own:
        plan = small_plan(own.folder, seconds)
        started = run(own, plan, "--on-agent-loss", policy)
        until("requests", lambda: sum(own.counts().values()) > 0, 60)
        time.sleep(5)
        continued = fault(own, started) or started
        finished = continued.finish(seconds + 120)
        planned = 500 * seconds
        if policy == "abort":
            planned = finished["requests"]["scheduled"]
        return Case(f"{name}, {policy}", planned, finished, own.counts(), exact)


def kill_agent(own: Fleet, _run: Run) -> None:
    """An agent is gone."""
    kill(own.agents[3])


def kill_nats(own: Fleet, _run: Run) -> None:
    """NATS is gone for 4 s."""
    kill(own.nats)
    time.sleep(4)
    own.start_nats()


def kill_coordinator(own: Fleet, started: Run) -> Run:
    """The coordinator is gone; another one continues."""
    name = started.name()
    kill(started.process)
    shutil.rmtree(started.out, ignore_errors=True)
    argv = [argument for argument in started.argv if not argument.endswith("plan.toml")]
    place = argv.index("--agents")
    argv[place:place + 2] = ["--resume", name]
    if "--on-agent-loss" in argv:
        place = argv.index("--on-agent-loss")
        del argv[place:place + 2]
    return Run(own, own.spawn("coordinator", COORDINATOR, *argv), started.out, argv)


def partition(own: Fleet, _run: Run) -> None:
    """An agent is cut off from NATS for 15 s, but not from the chains."""
    ip("-n", "plf-13", "route", "add", "blackhole", f"{address(NATS)}/32")
    time.sleep(15)
    ip("-n", "plf-13", "route", "delete", "blackhole", f"{address(NATS)}/32")


def nothing(_own: Fleet, _run: Run) -> None:
    """Nothing fails after the start."""


def cases(only: str) -> list[Callable[[], Case]]:
    """All cases, with how they are run."""
    minute = int(os.environ.get("PLIMSOLL_FLEET_SECONDS", "60"))
    faulty = 40
    all_cases: list[tuple[str, Callable[[], Case]]] = [
        ("option A", lambda: option_a(minute)),
        ("option B", lambda: option_b(minute)),
    ]
    for policy in ["continue", "rebalance", "abort"]:
        all_cases += [
            (f"agent killed, {policy}",
             lambda policy=policy: with_fault("agent killed", faulty, policy, kill_agent, False)),
            (f"NATS killed, {policy}",
             lambda policy=policy: with_fault("NATS killed for 4 s", faulty, policy, kill_nats, True)),
            (f"coordinator killed, {policy}",
             lambda policy=policy: with_fault("coordinator killed and resumed", faulty, policy, kill_coordinator, True)),
            # With abort, the others stop, and the report does not wait for what the one that was cut off sent.
            (f"partition, {policy}",
             lambda policy=policy: with_fault("an agent cut off for 15 s", faulty, policy, partition, policy != "abort")),
        ]
    all_cases.append(("slow link", lambda: with_fault(
        "a link with 100 to 150 ms each way", 20, "continue", nothing, True, slow=4)))
    if shutil.which("faketime"):
        all_cases.append(("clock", lambda: with_fault(
            "a clock 5 s off", 20, "continue", nothing, True, before={4: ("faketime", "-f", "+5s")})))
    return [case for name, case in all_cases if only in name]


def prove(only: str) -> tuple[str, bool]:
    """Runs all cases; returns a table, and whether all hold."""
    if os.geteuid() != 0:
        raise subprocess.CalledProcessError(1, "network namespaces need root")
    for command in ["nats-server", "ip", "curl"]:
        if not shutil.which(command):
            raise subprocess.CalledProcessError(1, f"{command} is not installed")
    if not PROGRAM.exists():
        raise subprocess.CalledProcessError(1, f"{PROGRAM} does not exist: cargo build --release, or set PLIMSOLL")
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    lines = ["| case | planned | sent | unsent | agents lost | both ends, by chain | largest start skew | |",
             "|---|---|---|---|---|---|---|---|"]
    holds = True
    with network():
        for case in cases(only):
            try:
                done = case()
                holds &= done.holds()
                lines.append(done.row())
            except subprocess.CalledProcessError as reason:
                holds = False
                lines.append(f"| {reason.cmd} | | | | | | | **FAILS** |")
            print(lines[-1], flush=True)
    return "\n".join(lines), holds
