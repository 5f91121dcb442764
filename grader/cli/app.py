"""course: start, check, hint, doctor; and for authors and instructors release, classroom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grader import paths, registry

app = typer.Typer(
    help="Bit for Bit: kill a training run anywhere, resume it, and get the same weights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
classroom_app = typer.Typer(help="For instructors: a class's own directory.", no_args_is_help=True)
app.add_typer(classroom_app, name="classroom")


def fail(message: str, code: int = 2) -> typer.Exit:
    """An exit with a message on stderr: ``raise fail(...)``."""
    typer.echo(message, err=True)
    return typer.Exit(code)


@app.command()
def start(
    directory: Annotated[Path, typer.Argument(help="Where your copy goes.")] = paths.WORK,
    solved: Annotated[
        list[str] | None, typer.Option(help="Fill in this notebook's modules, e.g. 02.")
    ] = None,
) -> None:
    """Make your own copy of the course; what you have written is never overwritten."""
    from grader.cli import learner

    try:
        learner.start(directory, solved or [])
    except (registry.UnknownName, learner.CannotStart) as error:
        raise fail(str(error)) from None


@app.command()
def check(
    what: Annotated[
        str | None, typer.Argument(help="01, lr_reset or lr_reset.momentum; all without it.")
    ] = None,
    savepoint: Annotated[
        Path | None, typer.Option(help="A directory that holds a savepoint package.")
    ] = None,
    complete_from: Annotated[
        Path | None, typer.Option(help="Take modules that the package lacks from here.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Repeat an earlier run's draws.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="One verdict a line.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the checks, run none.")] = False,
) -> None:
    """Check your package. Exit status: 0 all passed, 1 not, 2 usage, 3 the grader failed."""
    from grader.cli import checking

    try:
        if list_:
            checking.show_list(what, as_json=json_)
            return
        code = checking.run(what, savepoint, complete_from, seed, as_json=json_)
    except (registry.UnknownName, paths.NoPackage) as error:
        raise fail(str(error)) from None
    raise typer.Exit(code)


@app.command()
def hint(
    code: Annotated[str, typer.Argument(help="As a check's message names it.")],
    rung: Annotated[int | None, typer.Option(min=1, max=3, help="This one, not the next.")] = None,
) -> None:
    """Help with a check, one step further each time."""
    from grader.hints import next_hint

    try:
        typer.echo(next_hint(code, rung))
    except registry.UnknownName as error:
        raise fail(str(error)) from None


@app.command()
def doctor() -> None:
    """Say what this machine can do, and what to mend. The output can be pasted into a report."""
    from grader.doctor import report

    text, healthy = report()
    typer.echo(text)
    raise typer.Exit(0 if healthy else 1)


@app.command()
def release(
    check_only: Annotated[
        bool, typer.Option("--check", help="Say whether what is committed is what would be built.")
    ] = False,
    execute: Annotated[
        bool, typer.Option(help="Also execute the solutions' notebooks (slow).")
    ] = True,
) -> None:
    """For authors: build notebooks/ and the executed solutions/*.ipynb from solutions/."""
    from grader.release import build

    try:
        if check_only:
            differences = build.check()
            for line in differences:
                typer.echo(line)
            raise typer.Exit(1 if differences else 0)
        for line in build.release(execute=execute):
            typer.echo(line)
    except build.ReleaseError as error:
        raise fail(f"Nothing was released. {error}", 1) from None


@classroom_app.command("new")
def classroom_new(
    directory: Annotated[Path, typer.Argument(help="A new directory for the class.")],
) -> None:
    """Write an ordinary nbgrader course directory; stock nbgrader commands work in it."""
    from grader.classroom import new

    try:
        typer.echo(new.create(directory))
    except (new.CannotCreate, OSError) as error:
        raise fail(str(error), 1) from None
