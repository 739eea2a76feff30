"""What keys, limits and metering cost, and how exact they are with four replicas."""

import csv
import glob
import hashlib
import io
import json
import os
import pwd
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import subjects
from .cached import NUMBER, chain, settled
from .gateway import cpu_us, each, measure_rounds, per_second, steady_rate
from .generators import plimsoll
from .machine import say
from .processes import CouldNotRun, Server, free_port, nginx_with_action, running
from .settings import CONTENT_TYPE, GENERATOR_CPU, PLIMSOLL, SERVER_CPU, Settings
from .subjects import Subject, call
from .tables import Section, spread

COST_BAR = 0.9
LIMIT_BAR = 0.01
KEY = "plk_" + "b3nch" * 8
REPLICAS = 4
# Of the customer that is limited, at twice which it calls.
LIMIT_PER_SECOND = 500
# The default of `burst`.
BURST_SECONDS = 0.5
# A call within the limit of the other customer, whose usage is compared.
FREE_PER_SECOND = 500
# How long usage may take to arrive in the database.
USAGE_SECONDS = 10
ENDPOINT = f"""keys.bench = {{ hash = "sha256:{hashlib.sha256(KEY.encode()).hexdigest()}" }}
limits = {{ calls = "10000000/s", compute_units = "10000000/s", daily_compute_units = 1_000_000_000_000 }}
"""
REPLICA = """
listen = ["127.0.0.1:{port}"]
instance = "gw-{number}"
workers = 1
database = "{database}"
state_dir = "{folder}"
[cache]
redis = "{redis}"
[[upstream]]
id = "node"
service = "eth"
url = "http://{node}"
[[endpoint]]
id = "limited"
service = "eth"
limits = {{ calls = "{limit}/s" }}
[[endpoint]]
id = "free"
service = "eth"
keys.bench = {{ hash = "{hash}" }}
"""


@dataclass
class Store:
    """A database server, and its first process."""

    url: str
    pid: int


@contextmanager
def redis() -> Iterator[Store]:
    """Runs a Redis in memory."""
    if not shutil.which("redis-server"):
        raise CouldNotRun("redis-server is not installed")
    port = free_port()
    argv = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--logfile", "/dev/null", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]
    with running(argv, port, str(GENERATOR_CPU)) as server:
        yield Store(f"redis://127.0.0.1:{port}", server.pid)


@contextmanager
def postgres() -> Iterator[Store]:
    """Runs a Postgres with its data in a temporary folder."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        raise CouldNotRun("postgresql is not installed")
    programs = Path(found[-1]).parent
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        # Postgres refuses to run as root.
        as_user = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        data = f"{folder}/data"
        make = [*as_user, programs / "initdb", "--auth=trust", "--username=plimsoll", "--pgdata", data]
        done = subprocess.run(make, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CouldNotRun(f"initdb: {done.stderr.strip()}")
        argv = [*as_user, programs / "postgres", "-D", data, "-p", port, "-k", folder,
                "-c", "listen_addresses=127.0.0.1"]
        with running(argv, port, str(GENERATOR_CPU)) as server:
            yield Store(f"postgres://plimsoll@127.0.0.1:{port}/postgres", server.pid)


def cost(section: Section, settings: Settings) -> None:
    """A hit of the cache with everything that customers need, beside one without."""
    section.title = "Gateway: the cost of keys, shared limits and metering"
    section.method = (
        "Hits of eth_blockNumber. Both gateways have the same cache and the same Redis. One serves an "
        "endpoint without keys and limits, and has no database; the other one checks a key, two rates that are "
        f"shared through Redis and a quota, and writes usage to SQLite. {settings.rounds()}."
    )
    with ExitStack() as stack:
        node = stack.enter_context(chain())
        cache = f'[cache]\nredis = "{stack.enter_context(redis()).url}"'
        plain = stack.enter_context(
            subjects.gateway(settings, node, more=cache, database="off"))
        plain.name = "without"
        full = stack.enter_context(subjects.gateway(settings, node, more=cache, endpoint=ENDPOINT))
        full.name, full.headers = "keys, limits, metering", [f"X-API-Key: {KEY}"]
        both = [plain, full]
        for gateway in both:
            settled(gateway)
        rate = steady_rate(section, both, NUMBER)
        rounds = measure_rounds(section, settings, both, NUMBER, rate)
    table = section.table("gateway", "calls/s", "CPU µs at that rate", f"CPU µs at {rate:,}/s", "p99 µs")
    fast, steady = [done.fast for done in rounds], [done.steady for done in rounds]
    for name in (plain.name, full.name):
        table.add(name, spread(each(fast, name, per_second), 0), spread(each(fast, name, cpu_us)),
                  spread(each(steady, name, cpu_us)),
                  spread(each(steady, name, lambda calls: calls.latency_us("p99")), 0))
    for shown, done in (("at the fixed rate", steady), ("at full speed", fast)):
        share = [one[plain.name].cpu_us / one[full.name].cpu_us for one in done
                 if plain.name in one and full.name in one]
        if share:
            section.bar(f"calls per CPU-second to those without, {shown}", spread(share, 3),
                        f"≥ {COST_BAR}", sorted(share)[len(share) // 2] >= COST_BAR)


def replicas(section: Section, settings: Settings) -> None:
    """Four replicas behind nginx, on one Redis and one Postgres."""
    seconds = 15 if settings.quick else 60
    section.title = "Gateway: four replicas on one Redis and one Postgres"
    section.method = (
        f"nginx in front of {REPLICAS} gateways. For {seconds} s one endpoint, limited to {LIMIT_PER_SECOND}/s, "
        f"is called at twice that rate, and another one at {FREE_PER_SECOND}/s. Calls beyond the limit are "
        "answered with 429. Usage is read from the database afterwards."
    )
    with ExitStack() as stack:
        node = stack.enter_context(chain())
        database, cache = stack.enter_context(postgres()).url, stack.enter_context(redis()).url
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=settings.folder)))
        gateways = [stack.enter_context(replica(folder, number, node, database, cache))
                    for number in range(REPLICAS)]
        upstream = "upstream gateways { "
        upstream += " ".join(f"server {one.address};" for one in gateways) + " keepalive 64; }"
        action = ('proxy_pass http://gateways; proxy_http_version 1.1; '
                  'proxy_set_header Connection "";')
        front = stack.enter_context(nginx_with_action(settings, action, upstream))
        for one in gateways:
            settled(Subject("replica", one, path="/api/gateway?endpoint=free", headers=[f"X-API-Key: {KEY}"]))
        shared_hits(section, gateways)
        before = delivered(database)
        summary = two_customers(settings, front, seconds)
        limited = {one["name"]: one for one in summary["targets"]}
        exact(section, limited["limited"], seconds)
        metered(section, limited, before, database)


@contextmanager
def replica(folder: Path, number: int, node: str, database: str, cache: str) -> Iterator[Server]:
    """Runs one of the gateways."""
    port = free_port()
    state = folder / f"state-{number}"
    state.mkdir()
    file = folder / f"gateway-{number}.toml"
    digest = "sha256:" + hashlib.sha256(KEY.encode()).hexdigest()
    file.write_text(REPLICA.format(port=port, number=number, database=database, folder=state, redis=cache,
                                   node=node, limit=LIMIT_PER_SECOND, hash=digest))
    with running([PLIMSOLL, "gateway", "--config", file], port, str(SERVER_CPU)) as server:
        yield server


def shared_hits(section: Section, gateways: list[Server]) -> None:
    """The use of the cache by each replica in turn, for a call that none has made."""
    def ask(server: Server, body: str) -> tuple[dict, str]:
        request = urllib.request.Request(
            f"http://{server.address}/api/gateway?endpoint=free", body.encode(),
            {"Content-Type": CONTENT_TYPE, "X-API-Key": KEY},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.loads(response.read()), response.headers["x-cache"]
    latest, _ = ask(gateways[0], call("eth_getBlockByNumber", '["latest",false]'))
    body = call("eth_getBlockByHash", f'["{latest["result"]["hash"]}",true]')
    uses = []
    for gateway in gateways:
        uses.append(ask(gateway, body)[1])
        # Writes to Redis are asynchronous.
        time.sleep(0.1)
    expected = ["miss"] + ["shared"] * (len(gateways) - 1)
    section.bar("one call to each replica in turn", ", ".join(uses), ", ".join(expected), uses == expected)


def two_customers(settings: Settings, front: Server, seconds: int) -> dict:
    """Runs both customers' load; returns the instrument's summary."""
    plan = settings.folder / "customers.toml"
    stream = """
[[stream]]
name = "{name}"
rate = "{rate}/s"
duration = "{seconds}s"
[[stream.target]]
name = "{name}"
request = "POST http://{address}/api/gateway?endpoint={name}"
headers = {{ Content-Type = "application/json"{headers} }}
body = '{body}'
"""
    texts = [
        stream.format(name=name, rate=rate, seconds=seconds, address=front.address, headers=headers, body=NUMBER)
        for name, rate, headers in (
            ("limited", 2 * LIMIT_PER_SECOND, ""),
            ("free", FREE_PER_SECOND, f', X-API-Key = "{KEY}"'),
        )
    ]
    plan.write_text("".join(texts))
    say(f"customers: {seconds} s of load")
    summary, _ = plimsoll([plan], seconds)
    return summary


def exact(section: Section, limited: dict, seconds: int) -> None:
    """Compares the calls that were admitted with the limit."""
    admitted = limited["requests"]["ok"]
    permitted = LIMIT_PER_SECOND * seconds + LIMIT_PER_SECOND * BURST_SECONDS
    off = admitted / permitted - 1
    table = section.table("customer", "called", "admitted", "permitted", "difference")
    table.add("limited", f"{limited['requests']['sent']:,}", f"{admitted:,}", f"{permitted:,.0f}", f"{off:+.2%}")
    section.bar("admitted by four replicas, to the limit", f"{off:+.2%}", f"within {LIMIT_BAR:.0%}",
                abs(off) <= LIMIT_BAR)


def metered(section: Section, targets: dict, before: dict, database: str) -> None:
    """Compares usage in the database with the instrument's own count."""
    table = section.table("customer", "answered, as the instrument counted", "metered", "difference")
    deadline = time.monotonic() + USAGE_SECONDS
    while True:
        now = usage(database)
        counted = {name: now.get(name, 0) - before.get(name, 0) for name in targets}
        differences = {name: counted[name] - one["requests"]["ok"] for name, one in targets.items()}
        if not any(differences.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    for name, one in targets.items():
        table.add(name, f"{one['requests']['ok']:,}", f"{counted[name]:,}", f"{differences[name]:+}")
    section.bar("usage to the instrument's count", f"{sum(map(abs, differences.values()))} calls differ", "0",
                not any(differences.values()))


def delivered(database: str) -> dict[str, int]:
    """Usage once all of it has arrived: replicas deliver each second, and nobody calls."""
    counted = usage(database)
    while True:
        time.sleep(3)
        if (later := usage(database)) == counted:
            return counted
        counted = later


def usage(database: str) -> dict[str, int]:
    """Answered calls by endpoint."""
    argv = [PLIMSOLL, "gateway", "usage", "--database", database, "--by", "endpoint", "--format", "csv"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CouldNotRun(f"plimsoll gateway usage: {done.stderr.strip()}")
    return {one["endpoint"]: int(one["ok"]) for one in csv.DictReader(io.StringIO(done.stdout))}
