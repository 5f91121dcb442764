"""``course watch``: save a module, and its checks run; one that fails is shown at a time.

Three threads put events into one queue: the files' (watchfiles), the keys', and one that runs
checks. The main thread takes them out, and it alone prints.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import sys
import threading
import time
from pathlib import Path

import watchfiles

from grader import hints, paths, registry, remembered
from grader.cli import checking, resetting
from grader.cli.console import coloured, say, width
from grader.cli.keys import keys
from grader.client import GraderFault, Runner, start_runner
from grader.registry import Check, Incident
from grader.verdict import Status, Verdict

KEYS = "h hint  l list  a all  r reset  q quit"


def watch(what: str | None, savepoint: Path | None) -> int:
    """Watch until q or Ctrl-C; return the exit status. Raises UnknownName, NoPackage."""
    root = paths.package_root(savepoint)
    focus = _incident(registry.select(what)[0]) if what else None
    if hasattr(signal, "SIGTERM"):  # leave by the way that puts the terminal back
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    session = _Session(root, focus)
    with keys(session.events) as have_keys:
        try:
            session.run(have_keys)
        except KeyboardInterrupt:
            say("\nStopped.")
            return 130
        finally:
            session.close()
    return 0


def _incident(check: Check) -> Incident:
    return registry.incidents()[check.incident]


class _Session:
    def __init__(self, root: Path, focus: Incident | None) -> None:
        self.root, self.focus = root, focus
        self.events: queue.Queue[tuple] = queue.Queue()
        self.shown: Verdict | None = None  # the failing check on the screen
        self.asking = False  # whether r was pressed, and waits for y
        self.round = 0  # which run of checks is the present one; older ones' verdicts are dropped
        self.left: list[Check] = []
        self.verdicts: list[Verdict] = []
        self._stop = threading.Event()
        self._jobs: queue.Queue[tuple[int, Check] | None] = queue.Queue()
        self._runner: Runner = start_runner()

    def run(self, have_keys: bool) -> None:
        threading.Thread(target=self._follow_files, daemon=True).start()
        threading.Thread(target=self._judge, daemon=True).start()
        say(f"Watching {self.root / 'savepoint'}")
        say("Save a module there, and its checks run.")
        say(KEYS if have_keys else "No keys: stdin is not a terminal. Ctrl-C ends this.")
        if self.focus:
            self.begin(list(self.focus.checks))
        while True:
            kind, *rest = self.events.get()
            if kind == "key":
                if self.key(rest[0]) is False:
                    return
            elif kind == "saved":
                self.saved(rest[0])
            elif kind == "verdict":
                self.verdict(*rest)

    def close(self) -> None:
        self._stop.set()
        self._jobs.put(None)
        self._runner.close()  # a check under way ends with its server

    # Files

    def _follow_files(self) -> None:
        folder = self.root / "savepoint"
        while not self._stop.is_set():
            # Editors save by renaming: the directory is watched, not the files.
            with contextlib.suppress(FileNotFoundError):  # gone for the moment, as in a checkout
                for changes in watchfiles.watch(
                    folder,
                    watch_filter=watchfiles.PythonFilter(),
                    debounce=300,
                    stop_event=self._stop,
                    raise_interrupt=False,
                ):
                    names = {Path(path).stem for _, path in changes if Path(path).exists()}
                    if names:
                        self.events.put(("saved", names))
            self._stop.wait(0.5)

    def saved(self, names: set[str]) -> None:
        """Check the incident that a changed module belongs to; a helper's go with the focus."""
        for incident in registry.incidents().values():
            if names & set(incident.modules):
                self.focus = incident
                break
        if self.focus is None:
            say(f"{', '.join(sorted(names))}: no check is about this one. Press a for all.")
            return
        self.begin([c for c in self.focus.checks if c.kind != "prediction"], sorted(names))

    # Checks

    def _judge(self) -> None:
        while (job := self._jobs.get()) is not None:
            number, check = job
            if number != self.round:
                continue
            try:
                verdict = checking.check_one(check, self.root, self._runner)
            except (GraderFault, OSError) as error:
                fault = Status.GRADER_FAULT
                verdict = Verdict(check.id, fault, 0.0, check.points, str(error), None, 0, 0.0)
            if not self._stop.is_set():
                self.events.put(("verdict", number, verdict))

    def begin(self, checks: list[Check], names: list[str] | None = None) -> None:
        """Run these checks, in order, in place of those under way."""
        checks = [check for check in checks if checking.applies(check, self.root)]
        self.round += 1
        self.left, self.verdicts, self.shown, self.asking = list(checks), [], None, False
        if coloured():
            sys.stdout.write("\x1b[2J\x1b[H")
        what = f"{', '.join(names)} saved" if names else "checking"
        say(f"── {time.strftime('%H:%M:%S')}  {what}, {len(checks)} checks "[: width()])
        for check in checks:
            self._jobs.put((self.round, check))

    def verdict(self, number: int, verdict: Verdict) -> None:
        """Show the first that fails at once; the rest is counted."""
        if number != self.round:
            return
        self.verdicts.append(verdict)
        self.left.pop(0)
        further = registry.checks()[verdict.check].kind == "further"
        if verdict.status is not Status.PASSED and self.shown is None and not further:
            self.shown = verdict
            say(verdict.as_text())
        if self.left:
            return
        passed = sum(v.status is Status.PASSED for v in self.verdicts)
        say(f"\n{passed} of {len(self.verdicts)} checks pass.")
        if self.shown is None:
            self.shown = next((v for v in self.verdicts if v.status is not Status.PASSED), None)
            if self.shown:
                say("What is left is further, and optional:\n" + self.shown.as_text())
            elif self.verdicts:
                say(f"✓ All of it. The reference's way: course solution {self.verdicts[-1].check}")

    # Keys

    def key(self, letter: str) -> bool:
        """What a key does; False ends the session."""
        if self.asking:
            self.asking = False
            if letter == "y":
                self.reset()
            else:
                say("Nothing was changed.")
            return True
        if letter == "q":
            return False
        if letter == "h":
            say(hints.next_hint(self.shown.hint or self.shown.check) if self.shown else NO_HINT)
        elif letter == "l":
            self.list()
        elif letter == "a":
            self.begin(registry.select(None))
        elif letter == "r":
            self.ask_reset()
        elif letter in ("?", "\n", "\r"):
            say(KEYS)
        return True

    def list(self) -> None:
        """The focus's checks and where each stands; without a focus, every notebook."""
        for chapter in remembered.standings(self.root):
            if self.focus is None:
                mark = "✓" if chapter.done else "·"
                say(f"{mark} {chapter.incident.notebook}: {chapter.incident.title}")
            elif chapter.incident == self.focus:
                for standing in chapter.standings:
                    say(f"{standing.mark} {standing.check.id}   {standing.word}")

    def ask_reset(self) -> None:
        if self.focus is None:
            say("Nothing to reset yet: save a module first.")
            return
        self.asking = True
        files = ", ".join(f"savepoint/{module}.py" for module in self.focus.modules)
        say(f"Put {files} back as handed out? Yours is kept. y: yes, any other key: no")

    def reset(self) -> None:
        for module in self.focus.modules if self.focus else ():
            try:
                if self.root in (paths.SOLUTIONS, paths.NOTEBOOKS):
                    raise resetting.CannotReset("This is the course itself; nothing was changed.")
                kept = resetting.put_back(self.root, f"savepoint/{module}.py")
                say(f"savepoint/{module}.py is as handed out. Yours is kept: {kept}")
            except resetting.CannotReset as error:
                say(str(error))


NO_HINT = "No failing check is shown. Save a module, or press a to check everything."
