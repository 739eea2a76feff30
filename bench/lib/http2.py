"""HTTP/2: requests per CPU-second beside h2load, against nghttpd and nginx."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree, which
from statistics import median

from .generators import Exchanges, Generator, posting, read_h2load, read_plimsoll
from .machine import say
from .processes import CouldNotRun, free_port, nginx_with_action, running
from .settings import ANSWER, CONTENT_TYPE, PLIMSOLL, REQUEST, Settings
from .tables import Section, spread

CONNECTIONS = 8
STREAMS = 100
BAR = 0.45
# The name of plimsoll with a record of every request.
RECORDING = "plimsoll, recording"


def measure(section: Section, settings: Settings) -> None:
    """Runs every generator once per round and server, in rotating order."""
    section.title = f"HTTP/2, {CONNECTIONS} connections of {STREAMS} streams: requests per CPU-second"
    section.method = (
        "POST eth_blockNumber in clear, at full speed, with all of plimsoll's histograms, and once more with a record "
        "of every request; user and system time of the whole process; "
        f"{settings.rounds()}."
    )
    table = section.table(
        "server, generator", "requests per CPU-second", "CPU µs", "of which user µs", "requests/s", "failed"
    )
    for name, started in (("nghttpd", nghttpd), ("nginx", nginx_http2)):
        try:
            with started(settings) as address:
                rounds = [one_round(section, settings, name, address, at) for at in range(settings.runs)]
        except CouldNotRun as reason:
            section.note(f"{name}: could not run: {reason}")
            continue
        for generator in generators():
            runs = [done[generator.name] for done in rounds if generator.name in done]
            if runs:
                table.add(
                    f"{name}, {generator.name}",
                    spread([1e6 / run.cpu_us for run in runs], 0),
                    spread([run.cpu_us for run in runs]),
                    spread([run.user_us for run in runs]),
                    spread([run.per_second for run in runs], 0),
                    sum(run.failed for run in runs),
                )
        both = [done for done in rounds if len(done) == len(generators())]
        for own in ("plimsoll", RECORDING):
            ratios = [done["h2load"].cpu_us / done[own].cpu_us for done in both]
            if ratios:
                held = median(ratios) >= BAR
                section.bar(f"{name}: {own} to h2load", spread(ratios), f"≥ {BAR}, goal 0.8", held)


def one_round(
    section: Section, settings: Settings, server: str, address: str, index: int
) -> dict[str, Exchanges]:
    """Runs each generator once; one that fails is left out and noted."""
    done = {}
    order = generators()
    shift = index % len(order)
    for generator in order[shift:] + order[:shift]:
        try:
            exchanges = generator.run(address, settings.seconds, settings.folder)
        except CouldNotRun as reason:
            section.note(f"{server}, round {index + 1}: could not run: {reason}")
            continue
        done[generator.name] = exchanges
        say(f"http2, {server}, round {index + 1} of {settings.runs}: {generator.name} "
            f"{exchanges.cpu_us:.2f} µs, {exchanges.per_second:,.0f}/s")
    return done


def generators() -> list[Generator]:
    """The generators of this section."""
    return [
        Generator("plimsoll", PLIMSOLL, plimsoll_arguments, read_plimsoll),
        Generator(RECORDING, PLIMSOLL, recording_arguments, read_plimsoll),
        Generator("h2load", "h2load", h2load_arguments, read_h2load),
    ]


def plimsoll_arguments(address: str, seconds: int, _folder: Path) -> list:
    return ["run", "--no-out", *load_of(address, seconds)]


def recording_arguments(address: str, seconds: int, folder: Path) -> list:
    out = folder / "recorded"
    rmtree(out, ignore_errors=True)
    return ["run", "--out", out, *load_of(address, seconds)]


def load_of(address: str, seconds: int) -> list:
    """By default, the users need 8 connections of 100 streams."""
    load = ["--users", CONNECTIONS * STREAMS, "--duration", f"{seconds}s", "--workers", 1]
    return ["--format", "json", *posting(address), "--protocol", "http2", *load]


def h2load_arguments(address: str, seconds: int, folder: Path) -> list:
    body = folder / "body.json"
    body.write_text(REQUEST)
    load = ["-t1", f"-c{CONNECTIONS}", f"-m{STREAMS}", f"--duration={seconds}"]
    return [*load, f"--data={body}", "-H", f"content-type: {CONTENT_TYPE}", f"http://{address}/"]


def nginx_http2(settings: Settings):
    """nginx with HTTP/2 in clear; a context with its address."""
    action = f"return 200 '{ANSWER}';"
    return only_address(nginx_with_action(settings, action, listen="http2"))


@contextmanager
def only_address(server) -> Iterator[str]:
    """The address of a server."""
    with server as started:
        yield started.address


@contextmanager
def nghttpd(settings: Settings) -> Iterator[str]:
    """nghttpd with one worker that answers from a file; yields its address."""
    if not which("nghttpd"):
        raise CouldNotRun("nghttpd is not installed")
    folder = settings.folder / "nghttpd"
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text(ANSWER)
    port = free_port()
    argv = ["nghttpd", "--no-tls", "-n1", f"--max-concurrent-streams={STREAMS}", "-d", folder, port]
    with running(argv, port) as started:
        yield started.address
