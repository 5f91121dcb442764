"""course: for learners start, check, watch, hint, progress, reset, solution and doctor; for authors
release; for instructors classroom, grade and report. Each verb's work is in a module of its own.
"""

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
    torchrun: Annotated[
        bool, typer.Option("--torchrun", help="Start several ranks with a real torchrun (slower).")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="One verdict a line.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the checks, run none.")] = False,
) -> None:
    """Check your package. Exit status: 0 all passed, 1 not, 2 usage, 3 the grader failed."""
    from grader.cli import checking

    try:
        if list_:
            checking.show_list(what, as_json=json_)
            return
        code = checking.run(
            what, savepoint, complete_from, seed, as_json=json_, with_torchrun=torchrun
        )
    except (registry.UnknownName, paths.NoPackage) as error:
        raise fail(str(error)) from None
    raise typer.Exit(code)


@app.command()
def watch(
    what: Annotated[
        str | None, typer.Argument(help="01 or lr_reset: check it at once, then on each save.")
    ] = None,
    savepoint: Annotated[
        Path | None, typer.Option(help="A directory that holds a savepoint package.")
    ] = None,
) -> None:
    """Check a module each time it is saved. Keys: h hint, l list, a all, r reset, q quit."""
    from grader.cli import watching

    try:
        code = watching.watch(what, savepoint)
    except (registry.UnknownName, paths.NoPackage) as error:
        raise fail(str(error)) from None
    raise typer.Exit(code)


@app.command()
def hint(
    code: Annotated[
        str | None,
        typer.Argument(help="As a check's message names it; the first unpassed one without it."),
    ] = None,
    rung: Annotated[int | None, typer.Option(min=1, max=3, help="This one, not the next.")] = None,
) -> None:
    """Help with a check, one step further each time."""
    from grader.cli.console import say
    from grader.hints import next_hint, pending

    code = code or pending()
    if code is None:
        raise fail("No check has failed yet. Run `course check 01`, or name a check.")
    try:
        say(next_hint(code, rung))
    except registry.UnknownName as error:
        raise fail(str(error)) from None


@app.command()
def progress(
    checklist: Annotated[
        bool, typer.Option("--checklist", help="The lines to take home, ticked where yours pass.")
    ] = False,
) -> None:
    """A bar a notebook, points, minutes left: from what was checked, as long as it still holds."""
    from grader.cli import progressing

    try:
        progressing.checklist() if checklist else progressing.show()
    except paths.NoPackage as error:
        raise fail(str(error)) from None


@app.command()
def reset(
    what: Annotated[str, typer.Argument(help="checkpoint (a module), or 01 (a notebook).")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Put one file back as it was handed out. Yours is kept, and you are told where."""
    from grader.cli import resetting

    try:
        done = resetting.reset(what, yes=yes)
    except (resetting.CannotReset, paths.NoPackage) as error:
        raise fail(str(error)) from None
    raise typer.Exit(0 if done else 1)


@app.command()
def solution(
    check_id: Annotated[str, typer.Argument(metavar="CHECK", help="Such as lr_reset.momentum.")],
    anyway: Annotated[bool, typer.Option("--anyway", help="Before it has passed.")] = False,
) -> None:
    """The reference's code for one check, once yours passes. Exit status 1: it does not yet."""
    from grader.cli import solving

    try:
        shown = solving.show(check_id, anyway=anyway)
    except registry.UnknownName as error:
        raise fail(str(error)) from None
    raise typer.Exit(0 if shown else 1)


@app.command()
def doctor() -> None:
    """Say what this machine can do, and what to mend. The output can be pasted into a report."""
    from grader.cli.console import say
    from grader.doctor import report

    text, healthy = report()
    say(text, indent=17)
    raise typer.Exit(0 if healthy else 1)


@app.command()
def release(
    check_only: Annotated[
        bool, typer.Option("--check", help="Say whether what is committed is what would be built.")
    ] = False,
    execute: Annotated[
        bool, typer.Option(help="Also execute the solutions' notebooks (slow).")
    ] = True,
    only: Annotated[
        str | None, typer.Option(help="For instructors: hand out these notebooks, e.g. 00,01.")
    ] = None,
    class_: Annotated[
        Path | None, typer.Option("--class", help="The class's directory; this one without it.")
    ] = None,
) -> None:
    """For authors: build notebooks/ and the executed solutions/*.ipynb from solutions/.

    With --only, for instructors: a class's release/ with these notebooks alone, week by week.
    """
    from grader.release import build

    if only or class_:
        if not only or check_only:
            raise fail("Say which notebooks: course release --only 00,01 --class DIR")
        release_some(class_ or Path.cwd(), only)
        return
    if Path("nbgrader_config.py").exists() and not Path.cwd().is_relative_to(paths.ROOT):
        raise fail(
            "This is a class's directory, and `course release` alone builds the course's own "
            "notebooks. Say which the class gets now: course release --only 00,01"
        )
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


@app.command()
def grade(
    notebooks: Annotated[
        list[str] | None, typer.Argument(help="01, lr_reset …; all that were released without it.")
    ] = None,
    notebook: Annotated[
        list[str] | None, typer.Option(help="The same, as an option; may be repeated.")
    ] = None,
    student: Annotated[list[str] | None, typer.Option(help="Only this one; repeatable.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Workers on this machine; as many as cores without.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask cluster in place of workers here: tcp://host:8786.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Grade what has not changed as well.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust-submissions", help="Without a jail: they run as you.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="One record a line.")] = False,
) -> None:
    """Grade the class in this directory: in a jail, what changed, into nbgrader's gradebook.

    Exit status: 0 everything graded, 1 something could not be, 2 usage, 3 no jail or no class.
    """
    from grader.classroom.workers import CannotGrade, default_jobs
    from grader.cli import grading

    try:
        code = grading.run(
            [*(notebooks or []), *(notebook or [])],
            student or [],
            jobs or default_jobs(),
            scheduler,
            again=again,
            trust=trust,
            as_json=json_,
        )
    except registry.UnknownName as error:
        raise fail(str(error)) from None
    except CannotGrade as error:
        raise fail(str(error), 3) from None
    raise typer.Exit(code)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Where it goes.")] = Path("report"),
    rows: Annotated[int, typer.Option(min=1, help="Students in a heat map, at most.")] = 500,
) -> None:
    """A page on the class in this directory, and a CSV file a notebook for an LMS."""
    from grader.cli import reporting

    try:
        reporting.run(Path.cwd(), out, rows)
    except reporting.CannotReport as error:
        raise fail(str(error)) from None


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


def release_some(directory: Path, only: str) -> None:
    """`course release --only`: what a class hands out this week."""
    from grader.classroom import new
    from grader.release.build import ReleaseError

    try:
        typer.echo(new.release(directory, only))
    except registry.UnknownName as error:
        raise fail(str(error)) from None
    except (new.CannotCreate, ReleaseError, OSError) as error:
        raise fail(str(error), 1) from None
