"""Lengths and repetitions of the measurements, paths, and constants."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLIMSOLL = ROOT / "target/release/plimsoll"
RESULTS = ROOT / "bench/results/latest.md"

# With server and generator on one processor, the scheduler would be measured.
SERVER_CPU = 0
GENERATOR_CPU = 1

REQUEST = '{"jsonrpc":"2.0","method":"eth_blockNumber","params":[],"id":1}'
ANSWER = '{"jsonrpc":"2.0","id":1,"result":"0x15f0a"}'
CONTENT_TYPE = "application/json"
CONNECTIONS = 64


def own_program(name: str) -> Path:
    """The path of a program from bench/src/bin."""
    return ROOT / "bench/target/release" / name


@dataclass
class Settings:
    """The settings of one invocation."""

    quick: bool
    runs: int
    seconds: int
    stall_seconds: int
    memory_requests: tuple[int, int]
    background_requests: int
    gateway_calls: int
    folder: Path
    # Requests per second reached in the closed section; the open section runs at half of it.
    capacity: float | None = None
    # Connection limit of the open section: the number its capacity was measured with.
    open_connections: int = 64

    @staticmethod
    def chosen(quick: bool, full: bool, runs: int | None, folder: Path) -> "Settings":
        """The settings that the flags select."""
        background = 1_000_000 if full else 25_000 if quick else 300_000
        return Settings(
            quick=quick,
            runs=max(1, runs if runs is not None else 2 if quick else 5),
            seconds=3 if quick else 10,
            # Whole periods of the stalling server.
            stall_seconds=20 if quick else 40,
            memory_requests=(100_000, 1_000_000) if quick else (500_000, 5_000_000),
            background_requests=background,
            gateway_calls=5_000_000 if full else 50_000 if quick else 500_000,
            folder=folder,
        )

    def rounds(self) -> str:
        """How the rounds are aggregated, as part of a sentence."""
        if self.runs == 1:
            return "one round"
        return f"median of {self.runs} rounds, lowest and highest in brackets"

    def described(self) -> str:
        """One line for the head of the results."""
        length = "quick: too short to be quoted" if self.quick else "full length"
        rounds = "round" if self.runs == 1 else "rounds"
        return f"{self.runs} paired {rounds} of {self.seconds} s, {length}"
