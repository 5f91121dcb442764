"""Own, then reference: an early mistake is paid for once, and a helper of one's own is not lost.

A later notebook's modules build on earlier ones. A check that fails with the learner's own is run
again with the reference's earlier modules in their place; the better of the two counts.

The reference's modules lie beside learner code then, and can be read by it. So they come only
where the learner's own failed, only from notebooks before this one (what this notebook asks for is
never among them), and with the probe's request: the next probe finds nothing of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from grader import registry, scratch
from grader.client import Runner
from grader.judge import judge
from grader.paths import SOLUTIONS
from grader.registry import Check, Incident
from grader.verdict import Status, Verdict

OWN, REFERENCE = "own", "reference"


@cache
def _owners() -> dict[str, int]:
    """The notebook's number that each of the reference's modules belongs to.

    ``compat_steps`` belongs with ``compat``. A module that no notebook names is in no list, and
    never stands in for anything.
    """
    named = {m: i.number for i in registry.incidents().values() for m in i.modules}
    owners = {}
    for path in (SOLUTIONS / "savepoint").glob("*.py"):
        near = [m for m in named if path.stem == m or path.stem.startswith(m + "_")]
        if near:
            owners[path.stem] = named[max(near, key=len)]
    return owners


def earlier(incident: Incident) -> dict[str, bytes]:
    """The reference's modules that ``incident``'s may build on, as files of a package."""
    if not incident.modules:
        return {}
    return {
        f"savepoint/{stem}.py": (SOLUTIONS / "savepoint" / f"{stem}.py").read_bytes()
        for stem, number in _owners().items()
        if number < incident.number
    }


def package_in(root: Path) -> dict[str, bytes]:
    """The modules of the package in ``root``, as ``course grade`` takes them from a submission."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted((root / "savepoint").rglob("*.py"))
        if path.is_file()
    }


@contextlib.contextmanager
def laid_out(package: Mapping[str, bytes]) -> Iterator[Path]:
    """A directory that holds the package's files."""
    with scratch.directory("graded") as folder:
        root = Path(folder).resolve()
        (root / "savepoint").mkdir()
        for name, data in package.items():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        yield root


def judge_fairly(
    check: Check,
    package: Mapping[str, bytes],
    runner: Runner,
    *,
    trusted_runner: Runner | None = None,
    seed: int,
    answer: Any = None,
) -> tuple[Verdict, str]:
    """(the better verdict, whose earlier modules it was reached with)."""
    with laid_out(package) as root:
        verdict = judge(
            check, root, runner, trusted_runner=trusted_runner, seed=seed, answer=answer
        )
    incident = registry.incidents()[check.incident]
    stand_in = {**package, **earlier(incident)}
    if not _could_help(verdict, check, incident) or stand_in == dict(package):
        return verdict, OWN
    with laid_out(stand_in) as root:
        again = judge(check, root, runner, trusted_runner=trusted_runner, seed=seed)
    if again.status is Status.PASSED:
        return again, REFERENCE
    return verdict, OWN


def _could_help(verdict: Verdict, check: Check, incident: Incident) -> bool:
    """Whether other earlier modules could change this verdict."""
    if check.kind == "prediction" or verdict.status in (Status.PASSED, Status.GRADER_FAULT):
        return False
    # A stub says which notebook's task it is: this one's will not be done by an earlier module.
    return not (
        verdict.status is Status.NOT_IMPLEMENTED
        and verdict.message.startswith(f"Not yet: {incident.notebook},")
    )
