"""Whether the system stays as it is: memory, descriptors and latency at the end of a long run, to those at its start.

Four simulated chains, five gateway instances, and an edge over them, with one Redis and one Postgres; the load is
`scenarios/chains-33-minutes.toml`. Every part that could grow is in use: caches, usage, pools, histograms.
"""

import json
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from .customers import postgres, redis, usage
from .generators import WITH_SUMMARY
from .machine import say
from .processes import CouldNotRun, Server, free_port, pinned, running, status_bytes
from .settings import GENERATOR_CPU, PLIMSOLL, RESULTS, ROOT, SERVER_CPU, Settings
from .tables import Section

CHAINS = {"ETH": "eth", "BOBA": "boba", "MANTLE": "mantle", "KAVA": "kava"}
INSTANCES = 5
RATE, QUICK_RATE = 5_000, 500
# The length of the run, and of each of the two windows that are compared.
SECONDS, QUICK_SECONDS = 33 * 60, 110
WINDOW_SECONDS, QUICK_WINDOW_SECONDS = 5 * 60, 20
# Until caches, pools and allocators have their size.
WARM_UP_SECONDS, QUICK_WARM_UP_SECONDS = 60, 10
# Of the first window's median. A leak of 20 bytes per call would be 190 MiB in the full run.
MEMORY_BAR = 1.05
# Below this, growth is the allocator's, whatever its share of a small process.
MEMORY_FLOOR = 2 << 20
# What the instrument keeps of a second for its page: a run of 40 minutes, then one row for every two seconds.
SERIES_BYTES, SERIES_ROWS = 16 << 10, 2_400
DESCRIPTORS_BAR = 1.05
DESCRIPTORS_FLOOR = 16
LATENCY_BAR = 1.2
# How long usage may take to arrive in the database.
USAGE_SECONDS = 10
BOTH = f"{SERVER_CPU},{GENERATOR_CPU}"
INSTANCE = """
listen = ["127.0.0.1:{port}"]
instance = "{name}"
database = "{database}"
state_dir = "{state}"
[cache]
redis = "{redis}"
"""


@dataclass
class Samples:
    """Memory and open descriptors of a process, once a second."""

    pid: int
    memory: list[tuple[float, int]] = field(default_factory=list)
    descriptors: list[tuple[float, int]] = field(default_factory=list)

    def take(self, now: float) -> None:
        """Adds a sample, unless the process has exited."""
        if (count := descriptors(self.pid)) is not None:
            self.memory.append((now, status_bytes(self.pid, "VmRSS")))
            self.descriptors.append((now, count))


class FamilySamples(Samples):
    """The same of a process and its children together, without the memory that they share by design."""

    def take(self, now: float) -> None:
        family = [self.pid, *children(self.pid)]
        counts = [count for pid in family if (count := descriptors(pid)) is not None]
        if counts:
            self.memory.append((now, sum(map(anonymous_bytes, family))))
            self.descriptors.append((now, sum(counts)))


def descriptors(pid: int) -> int | None:
    """The open descriptors of a process; None if it has exited."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None


def children(pid: int) -> list[int]:
    """The children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def anonymous_bytes(pid: int) -> int:
    """The memory of a process that is no file and not shared; 0 if it has exited."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))


class Sampler:
    """Samples processes on a thread of its own."""

    def __init__(self, processes: list[tuple[str, Samples]]) -> None:
        self.of = dict(processes)
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        while not self.stopped.wait(1):
            now = time.monotonic()
            for samples in self.of.values():
                samples.take(now)

    def __enter__(self) -> "Sampler":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stopped.set()
        self.thread.join()


def within(samples: list[tuple[float, int]], start: float, end: float) -> float:
    """The median of the samples between two instants."""
    values = [value for at, value in samples if start <= at < end]
    if not values:
        raise CouldNotRun("no samples: a process has exited during the run")
    return median(values)


@dataclass
class Lengths:
    """The lengths of a run in seconds, and its rate."""

    warm_up: int
    seconds: int
    window: int
    rate: int

    @staticmethod
    def of(settings: Settings) -> "Lengths":
        if settings.quick:
            return Lengths(QUICK_WARM_UP_SECONDS, QUICK_SECONDS, QUICK_WINDOW_SECONDS, QUICK_RATE)
        return Lengths(WARM_UP_SECONDS, SECONDS, WINDOW_SECONDS, RATE)


def gateway(stack: ExitStack, folder: Path, name: str, database: str, cache: str, more: str) -> Server:
    """Starts one gateway."""
    port = free_port()
    state = folder / name
    state.mkdir()
    file = folder / f"{name}.toml"
    file.write_text(INSTANCE.format(port=port, name=name, database=database, state=state, redis=cache) + more)
    return stack.enter_context(running([PLIMSOLL, "gateway", "--config", file], port, BOTH))


def upstream(identity: str, url: str, kind: str, service: str = "") -> str:
    """The table of an upstream."""
    of = f'service = "{service}"\n' if service else ""
    return f'[[upstream]]\nid = "{identity}"\nkind = "{kind}"\nurl = "{url}"\n{of}'


def measure(section: Section, settings: Settings) -> None:
    """Runs the load once, and compares its windows."""
    lengths = Lengths.of(settings)
    section.title = "Soak: the end of a long run, to its start"
    section.method = (
        f"Four simulated chains, {INSTANCES} gateway instances and an edge, on one Redis and one Postgres: "
        f"{lengths.rate:,}/s for {lengths.seconds} s after {lengths.warm_up} s of warm-up "
        f"(scenarios/chains-33-minutes.toml). Medians of the last {lengths.window} s beside those of the first "
        f"{lengths.window} s. Memory is resident memory; of Postgres, that of all its processes without what they "
        "share. Servers and generator share both processors."
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=settings.folder)))
        stores = stack.enter_context(postgres()), stack.enter_context(redis())
        database, cache = (store.url for store in stores)
        port = free_port()
        chains = stack.enter_context(
            running([PLIMSOLL, "sim", "chain", "--listen", f"127.0.0.1:{port}"], port, BOTH))
        nodes = "".join(upstream(f"node-{one}", f"http://{chains.address}/{one}", "evm", one)
                        for one in CHAINS.values())
        processes = [("chains", Samples(chains.pid))]
        instances = []
        for number in range(1, INSTANCES + 1):
            name = f"gw-{number}"
            instances.append(gateway(stack, folder, name, database, cache, nodes))
            processes.append((name, Samples(instances[-1].pid)))
        paths = "".join(upstream(f"path-{number}", f"http://{one.address}/v1", "path")
                        for number, one in enumerate(instances, 1))
        endpoints = "".join(f'[[endpoint]]\nid = "ethpath_{one}"\nservice = "{one}"\n'
                            for one in CHAINS.values())
        edge = gateway(stack, folder, "edge", database, cache, paths + endpoints)
        processes += [("edge", Samples(edge.pid)), ("Postgres", FamilySamples(stores[0].pid)),
                      ("Redis", Samples(stores[1].pid))]
        before = usage(database)
        run, started, samples = send(settings, lengths, edge, processes, folder)
        page = RESULTS.with_name("soak.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run / "report.html", page)
        section.note(f"the page of the run: {page}")
        counted = metered(section, run, before, database)
        compare(section, lengths, run, started, samples)
    section.bar("usage in the database, to the instrument's count", f"{counted:+,} calls", "0", counted == 0)


def send(
    settings: Settings, lengths: Lengths, edge: Server, processes: list[tuple[str, Samples]], folder: Path
) -> tuple[Path, float, dict[str, Samples]]:
    """Runs the load; returns its run directory, when its warm-up was over, and the samples of all processes."""
    run = folder / "run"
    plan = (ROOT / "scenarios/chains-33-minutes.toml").read_text()
    # Its target files are relative to it.
    plan = plan.replace('file = "', f'file = "{ROOT}/scenarios/')
    plan = plan.replace("\n[[target]]", f'\nwarmup = "{lengths.warm_up}s"\n\n[[target]]', 1)
    (folder / "plan.toml").write_text(plan)
    argv = [PLIMSOLL, "run", folder / "plan.toml", "--out", run, "--record", "none", "--format", "json",
            "--set", f"GATEWAY=http://{edge.address}", "--set", f"TARGET_RPS={lengths.rate}",
            "--set", f"DURATION={lengths.seconds}s"]
    for name, service in CHAINS.items():
        argv += ["--set", f"{name}_ENDPOINT_ID=ethpath_{service}"]
    minutes = (lengths.warm_up + lengths.seconds) / 60
    say(f"soak: {minutes:.0f} minutes at {lengths.rate:,}/s")
    started = time.monotonic() + lengths.warm_up
    with open(folder / "stderr", "w+b") as errors:
        process = subprocess.Popen(pinned(GENERATOR_CPU, argv), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=errors)
        try:
            with Sampler([*processes, ("instrument", Samples(process.pid))]) as sampler:
                code = process.wait(lengths.warm_up + lengths.seconds + 120)
        except subprocess.TimeoutExpired as error:
            raise CouldNotRun("the instrument did not end in time") from error
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code not in WITH_SUMMARY:
            errors.seek(0)
            message = errors.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise CouldNotRun(f"plimsoll exited with code {code}: {message[0]}")
    return run, started, sampler.of


def part(run: Path, start: int, end: int) -> dict:
    """The summary of a part of the run."""
    argv = [PLIMSOLL, "report", run, "--format", "json", "--from", f"{start}s", "--to", f"{end}s"]
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
    if done.returncode not in WITH_SUMMARY:
        raise CouldNotRun(f"plimsoll report: {done.stderr.strip()}")
    return json.loads(done.stdout)


def metered(section: Section, run: Path, before: dict[str, int], database: str) -> int:
    """The difference between the calls in the database and those that the instrument saw answered."""
    summary = json.loads((run / "summary.json").read_text())
    # The warm-up is answered, and counted, too.
    warm_up = (summary.get("warmup") or {}).get("requests", {})
    answered = summary["requests"]["ok"] + warm_up.get("ok", 0)
    deadline = time.monotonic() + USAGE_SECONDS
    while True:
        now = usage(database)
        counted = sum(count - before.get(name, 0) for name, count in now.items() if name.startswith("ethpath_"))
        if counted == answered or time.monotonic() > deadline:
            section.note(f"{answered:,} calls answered, of them {warm_up.get('ok', 0):,} in the warm-up; "
                         f"{counted:,} in the database")
            return counted - answered
        time.sleep(0.2)


def compare(section: Section, lengths: Lengths, run: Path, started: float, samples: dict[str, Samples]) -> None:
    """Fills in the tables and bars."""
    end = lengths.seconds
    windows = ((0, lengths.window), (end - lengths.window, end))
    table = section.table("process", "MiB first", "MiB last", "change", "descriptors first", "descriptors last")
    memory_over, descriptors_over = [], []
    for name, one in samples.items():
        memory, descriptors = ([within(kind, started + start, started + stop) for start, stop in windows]
                               for kind in (one.memory, one.descriptors))
        table.add(name, f"{memory[0] / 2**20:.1f}", f"{memory[1] / 2**20:.1f}",
                  f"{memory[1] / memory[0] - 1:+.1%}", f"{descriptors[0]:.0f}", f"{descriptors[1]:.0f}")
        floor = MEMORY_FLOOR
        if name == "instrument":
            floor += SERIES_BYTES * min(end - lengths.window, SERIES_ROWS)
        if memory[1] > max(memory[0] * MEMORY_BAR, memory[0] + floor):
            memory_over.append(name)
        if descriptors[1] > max(descriptors[0] * DESCRIPTORS_BAR, descriptors[0] + DESCRIPTORS_FLOOR):
            descriptors_over.append(name)
    first, last = (part(run, *window) for window in windows)
    times = section.table("latency in ms", "first", "last")
    for name in ("p50", "p99", "p999"):
        times.add(name, *(f"{one['latency'][name] / 1e6:.3f}" for one in (first, last)))
    requests = json.loads((run / "summary.json").read_text())["requests"]
    section.bar("answered as expected", f"{requests['ok']:,} of {requests['scheduled']:,}", "all",
                requests["ok"] == requests["scheduled"])
    section.bar("processes whose memory grew", ", ".join(memory_over) or "none",
                f"none by {MEMORY_BAR - 1:.0%} and {MEMORY_FLOOR >> 20} MiB (instrument: and "
                f"{SERIES_BYTES >> 10} KiB a second)", not memory_over)
    section.bar("processes whose descriptors grew", ", ".join(descriptors_over) or "none",
                f"none by {DESCRIPTORS_BAR - 1:.0%} and {DESCRIPTORS_FLOOR}", not descriptors_over)
    ratio = last["latency"]["p99"] / first["latency"]["p99"]
    section.bar("p99, last to first", f"{ratio:.2f}", f"{LATENCY_BAR}", ratio <= LATENCY_BAR)
    for one, when in ((first, "first"), (last, "last")):
        if not one["verdict"]["valid"]:
            section.note(f"the {when} window is invalid as a measurement of latency: "
                         + ", ".join(each["id"] for each in one["verdict"]["findings"]))
