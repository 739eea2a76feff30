"""Closed model: CPU per exchange of each generator, at the full speed of one server."""

from statistics import median

from .generators import Exchanges, Generator, closed_model
from .machine import say
from .processes import CouldNotRun, nginx
from .settings import CONNECTIONS, Settings
from .tables import Section, spread

WRK_BAR = 1.0
BARE_GOAL = 1.10
USER_US_BAR = 1.0


def measure(section: Section, settings: Settings) -> None:
    """Runs every generator once per round, in rotating order."""
    section.title = f"Closed model, {CONNECTIONS} connections: CPU per exchange"
    section.method = (
        "POST eth_blockNumber to nginx at full speed; user and system time of the whole process; "
        f"{settings.rounds()}."
    )
    generators = [generator for generator in closed_model() if generator.is_installed()]
    present = {generator.name for generator in generators}
    absent = [generator.name for generator in closed_model() if generator.name not in present]
    if absent:
        section.note(f"not installed, left out: {', '.join(absent)}")
    # One entry per round; a generator that failed in a round is absent from it.
    rounds: list[dict[str, Exchanges]] = []
    with nginx(settings) as address:
        for index in range(settings.runs):
            shift = index % len(generators)
            order = generators[shift:] + generators[:shift]
            rounds.append(one_round(section, settings, order, address, index))
    report(section, generators, rounds)
    rates = [done["plimsoll"].per_second for done in rounds if "plimsoll" in done]
    settings.capacity = median(rates) if rates else None


def one_round(
    section: Section, settings: Settings, order: list[Generator], address: str, index: int
) -> dict[str, Exchanges]:
    """Runs each generator once; one that fails is left out and noted."""
    done = {}
    for generator in order:
        try:
            exchanges = generator.run(address, settings.seconds, settings.folder)
        except CouldNotRun as reason:
            section.note(f"round {index + 1}: could not run: {reason}")
            continue
        done[generator.name] = exchanges
        say(f"closed, round {index + 1} of {settings.runs}: {generator.name} "
            f"{exchanges.cpu_us:.2f} µs, {exchanges.per_second:,.0f}/s")
    return done


def report(section: Section, generators: list[Generator], rounds: list[dict]) -> None:
    """Tabulates all generators, and plimsoll against its bars."""
    table = section.table(
        "generator", "CPU µs", "of which user µs", "requests/s", "failed", "CPU to plimsoll's"
    )
    for generator in generators:
        runs = [done[generator.name] for done in rounds if generator.name in done]
        if runs:
            table.add(
                generator.name,
                spread([run.cpu_us for run in runs]),
                spread([run.user_us for run in runs]),
                spread([run.per_second for run in runs], 0),
                sum(run.failed for run in runs),
                spread(ratios(rounds, generator.name, "plimsoll"), 3),
            )
    for other, bar, within in (("wrk", WRK_BAR, "<"), ("bare-loop", BARE_GOAL, "≤")):
        found = ratios(rounds, "plimsoll", other)
        if found:
            held = median(found) < bar if within == "<" else median(found) <= bar
            section.bar(f"CPU, plimsoll to {other}", spread(found, 3), f"{within} {bar:.2f}", held)
    user = [done["plimsoll"].user_us for done in rounds if "plimsoll" in done]
    if user:
        held = median(user) <= USER_US_BAR
        section.bar("user µs of plimsoll", spread(user), f"≤ {USER_US_BAR:.2f}", held)


def ratios(rounds: list[dict[str, Exchanges]], one: str, other: str) -> list[float]:
    """Ratios of CPU time within each round, because the machine drifts between rounds."""
    both = [done for done in rounds if one in done and other in done]
    return [done[one].cpu_us / done[other].cpu_us for done in both]
