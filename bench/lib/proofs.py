"""Where proofs are recorded: one section of bench/PROVEN.md per proof, replaced by its next run."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROVEN = ROOT / "bench" / "PROVEN.md"
HEAD = "# Proofs\n\nWritten by `bench/prove NAME`, one section per proof.\n"


@dataclass(frozen=True)
class Proof:
    """A proof: what it shows, and the function that runs it and returns its text and success."""

    what: str
    run: Callable[[str], tuple[str, bool]]


def commit() -> str:
    """The commit under test, marked if files differ from it."""
    def git(*argv: str) -> str:
        return subprocess.run(["git", *argv], cwd=ROOT, check=True, capture_output=True,
                              text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", ":!bench/PROVEN.md")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def record(name: str, what: str, text: str) -> None:
    """Replaces the section of a proof."""
    sections = PROVEN.read_text() if PROVEN.exists() else HEAD
    section = f"\n## {name}\n\n{what[0].upper()}{what[1:]}. Commit {commit()}, {date.today()}.\n\n{text.strip()}\n"
    without = re.sub(rf"\n## {re.escape(name)}\n.*?(?=\n## |\Z)", "", sections, flags=re.S)
    PROVEN.write_text(without.rstrip("\n") + "\n" + section)
