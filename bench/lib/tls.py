"""TLS over HTTP/1.1: CPU per request beside wrk, on open connections and with a handshake for each request."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from .generators import Exchanges, Generator, read_plimsoll, read_wrk, wrk_arguments
from .machine import say
from .processes import CouldNotRun, nginx_with_action
from .settings import ANSWER, CONNECTIONS, CONTENT_TYPE, PLIMSOLL, REQUEST, Settings
from .tables import Section, spread

BAR = 1.0
# On both sides one version, so that both generators do the same handshake.
VERSIONS = ("TLSv1.2", "TLSv1.3")
# Kinds of load: on open connections; one connection for each request, with and without resumption of sessions.
OPEN, FULL, RESUMED = "open connections", "full handshakes", "resumed handshakes"


def measure(section: Section, settings: Settings) -> None:
    """Runs both generators once per round, version and kind of load, in rotating order."""
    section.title = f"TLS over HTTP/1.1, {CONNECTIONS} connections: CPU per request"
    section.method = (
        "POST eth_blockNumber to nginx with a certificate on P-256, at full speed. With handshakes, every request "
        "has a connection of its own; a full one cannot resume a session, because nginx keeps none and issues no "
        f"tickets. User and system time of the whole process; {settings.rounds()}."
    )
    table = section.table(
        "TLS, load, generator", "CPU µs", "of which user µs", "requests/s", "failed", "resumed", "CPU to plimsoll's"
    )
    certificate(settings.folder)
    for version in VERSIONS:
        for kind in (OPEN, FULL, RESUMED):
            rounds = []
            for index in range(settings.runs):
                rounds.append(one_round(section, settings, version, kind, index))
            add(section, table, f"{version.removeprefix('TLSv')}, {kind}", rounds)


def add(section: Section, table, load: str, rounds: list[dict]) -> None:
    """Adds the rows of a kind of load, and its bar."""
    both = [done for done in rounds if len(done) == 2]
    ratios = [done["plimsoll"][0].cpu_us / done["wrk"][0].cpu_us for done in both]
    for name in ("plimsoll", "wrk"):
        runs = [done[name] for done in rounds if name in done]
        if not runs:
            continue
        cost = [exchanges for exchanges, _ in runs]
        table.add(
            f"{load}, {name}",
            spread([run.cpu_us for run in cost]),
            spread([run.user_us for run in cost]),
            spread([run.per_second for run in cost], 0),
            sum(run.failed for run in cost),
            f"{median(share for _, share in runs):.1%}",
            "1.000" if name == "plimsoll" else spread([1 / ratio for ratio in ratios], 3),
        )
    if ratios:
        # A generator that does not resume does more work: the shares are in the table.
        section.bar(f"{load}: CPU, plimsoll to wrk", spread(ratios, 3), f"< {BAR:.2f}", median(ratios) < BAR)


def one_round(
    section: Section, settings: Settings, version: str, kind: str, index: int
) -> dict[str, tuple[Exchanges, float]]:
    """The cost of each generator, and the share of its handshakes that resumed a session."""
    done = {}
    order = generators(kind)
    for generator in order[index % 2:] + order[:index % 2]:
        try:
            with nginx_tls(settings, version, kind) as (address, log):
                exchanges = generator.run(address, settings.seconds, settings.folder)
            reused = log.read_text().split()
        except CouldNotRun as reason:
            section.note(f"{version}, {kind}, round {index + 1}: could not run: {reason}")
            continue
        done[generator.name] = (exchanges, reused.count("r") / max(1, len(reused)))
        say(f"tls, {version}, {kind}, round {index + 1} of {settings.runs}: {generator.name} "
            f"{exchanges.cpu_us:.2f} µs, {exchanges.per_second:,.0f}/s")
    return done


def generators(kind: str) -> list[Generator]:
    """The generators for a kind of load."""

    def plimsoll(address: str, seconds: int, folder: Path) -> list:
        plan = folder / "tls.toml"
        plan.write_text(plan_of(address, seconds, kind))
        return ["run", "--no-out", "--format", "json", "--workers", 1, plan]

    def wrk(address: str, seconds: int, folder: Path) -> list:
        *load, url = wrk_arguments(address, seconds, folder)
        close = [] if kind == OPEN else ["-H", "Connection: close"]
        return [*load, *close, url.replace("http:", "https:")]

    return [Generator("plimsoll", PLIMSOLL, plimsoll, read_plimsoll), Generator("wrk", "wrk", wrk, read_wrk)]


def plan_of(address: str, seconds: int, kind: str) -> str:
    """The closed section's load over TLS."""
    reuse = "true" if kind == OPEN else "false"
    return f"""
users = {CONNECTIONS}
duration = "{seconds}s"
protocol = "http1"
tls = {{ insecure = true }}
connections = {{ max = {CONNECTIONS}, reuse = {reuse} }}
[[target]]
request = "POST https://{address}/"
headers = {{ Content-Type = "{CONTENT_TYPE}" }}
body = '{REQUEST}'
"""


def certificate(folder: Path) -> None:
    """Makes a certificate for the server."""
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem",
            "-out", folder / "cert.pem"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise CouldNotRun(f"openssl: {error}") from error
    if done.returncode != 0:
        raise CouldNotRun(f"openssl exited with code {done.returncode}: {done.stderr[-200:]}")


@contextmanager
def nginx_tls(settings: Settings, version: str, kind: str) -> Iterator[tuple[str, Path]]:
    """nginx with TLS; yields its address, and a log with a letter for each connection that resumed a session."""
    log = settings.folder / "reused.log"
    log.unlink(missing_ok=True)
    resumes = kind == RESUMED
    # With open connections, only the first request of each is logged, so that logging costs nothing.
    more = (
        f"ssl_certificate {settings.folder}/cert.pem; ssl_certificate_key {settings.folder}/key.pem; "
        f"ssl_protocols {version}; ssl_session_tickets {'on' if resumes else 'off'}; "
        f"ssl_session_cache {'shared:bench:10m' if resumes else 'off'}; "
        "map $connection_requests $is_first { 1 1; default 0; } log_format reused '$ssl_session_reused';"
    )
    action = f"access_log {log} reused buffer=64k flush=1s if=$is_first; return 200 '{ANSWER}';"
    with nginx_with_action(settings, action, upstream=more, listen="ssl") as worker:
        yield worker.address, log
