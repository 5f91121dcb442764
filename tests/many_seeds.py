"""The reference against every check, with many seeds: `make soak`. Never part of the tests.

The bank judges with a few seeds; a learner's first answer draws its own. A check that refuses a
right solution for one seed in twenty is found here.

    python -m tests.many_seeds [--seeds N] [--seconds S] [NAMES]    names as `course check` takes
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from grader import judge, paths, registry
from grader.client import ForkServer
from grader.verdict import Status


def main(
    names: Annotated[list[str] | None, typer.Argument()] = None,
    seeds: Annotated[int, typer.Option(help="Seeds a check.")] = 50,
    seconds: Annotated[float, typer.Option(help="A check's longest, once begun.")] = 120.0,
    first: Annotated[int, typer.Option(help="The first seed; the rest follow.")] = 0,
) -> None:
    """Print each check with how many seeds it was given, and each refusal in full."""
    runner, refused = ForkServer(), 0
    for check in [c for name in names or [None] for c in registry.select(name)]:
        if check.kind == "prediction":
            continue
        started, given, wrong = time.monotonic(), 0, 0
        while given < seeds and time.monotonic() - started < seconds:
            seed = first + given
            verdict = judge.judge(check, paths.SOLUTIONS, runner, seed=seed)
            given += 1
            if verdict.status is not Status.PASSED:
                wrong += 1
                print(f"seed {seed}: {verdict.as_text()}", flush=True)
        refused += wrong
        print(f"{check.id:34} {given:5} seeds {wrong:5} refused", flush=True)
    runner.close()
    raise typer.Exit(1 if refused else 0)


if __name__ == "__main__":
    typer.run(main)
