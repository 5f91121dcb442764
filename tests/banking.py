"""The bank as tests see it: packages made of one stand-in module and the reference's others."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader.paths import SOLUTIONS

BANK = Path(__file__).parent / "bank"


@dataclass(frozen=True)
class Entry:
    """One implementation: ``module`` is what it stands in for, ``name`` its file's stem."""

    module: str
    name: str
    path: Path

    @property
    def is_wheat(self) -> bool:
        return self.name.startswith("wheat_")


def modules() -> list[str]:
    """The modules that have a bank whose verdicts are written down."""
    return sorted(path.parent.name for path in BANK.glob("*/expected.toml"))


def entries(module: str) -> list[Entry]:
    return [
        Entry(module, path.stem, path)
        for path in sorted((BANK / module).glob("*.py"))
        if path.stem.startswith(("wheat_", "chaff_"))
    ]


def expected(module: str) -> dict[str, Any]:
    """What the bank's expected.toml says: checks, further, skips, chaffs."""
    data = tomllib.loads((BANK / module / "expected.toml").read_text(encoding="utf-8"))
    return {"further": [], "skips": {}, **data}


def package(entry: Entry, into: Path) -> Path:
    """A directory under ``into`` that holds a savepoint package with this stand-in."""
    root = into / entry.module / entry.name
    shutil.copytree(
        SOLUTIONS / "savepoint", root / "savepoint", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copyfile(entry.path, root / "savepoint" / f"{entry.module}.py")
    return root
