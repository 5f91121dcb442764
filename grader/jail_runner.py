"""Runs probes in a jail: the same protocol as ``client.ForkServer``, with a wall around it.

The package travels inside the request, so a jail may be started, warm, before it is known whose
code it will run. After every probe the server, which a probe cannot reach, kills what else there
is and empties what can be written. ``settle`` keeps a jail for the next submission only where every
probe came to an ordinary end; anything odd ends with its jail.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grader import jail
from grader.attendant import PATIENCE
from grader.client import GraderFault, Report, Runner, _Process, reports, server_command
from grader.jail_cgroup import MEMORY

ORDINARY = ("ok", "raised")  # outcomes after which a jail may be used again
LIFETIME = 2000  # probes that one jail runs before another takes its place
MAX_PACKAGE = 4 << 20  # bytes of a submission's savepoint, all files together


class JailRunner:
    """A warm server in a jail. Started at once; waited for when it is first needed."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._jail = jail.build(server_command("--jailed"))
        try:
            self._server = _Process(command=self._jail.command, pass_fds=self._jail.pass_fds)
        except OSError as error:
            self._jail.remove()
            raise GraderFault(f"the jail did not start: {error}") from None
        self._jail.started()
        self._probes, self._odd = 0, False

    def wait_ready(self) -> None:
        """Until the server is warm. Raises GraderFault if it does not come to that."""
        self._server.wait_ready()

    def run(self, request: dict[str, Any], blobs: Mapping[str, bytes]) -> list[Report]:
        package = request.get("savepoint")
        request = {k: v for k, v in request.items() if k != "savepoint"}
        if not self._jail.cgroup:
            request["total_memory"] = MEMORY
        if package is not None:
            blobs = {**blobs, **_files(Path(package))}
        return self._send(request, blobs)

    def _send(self, request: dict[str, Any], blobs: Mapping[str, bytes]) -> list[Report]:
        self._server.wait_ready()
        self._probes += 1
        self._server.send(request, blobs)
        try:
            message = self._server.get(request["seconds"] * (1 + PATIENCE) + 30)
        except TimeoutError:
            message = None
        if message is None:
            said = self._server.output.decode(errors="replace").strip()[-500:]
            self.renew()
            raise GraderFault(f"the jail ended while it ran {request['probe']}. {said}")
        answer = reports(message, request.get("world_size", 1))
        if message[0].get("clean") is not True:
            self.renew()  # something could not be cleared away: it ends with this jail
        elif message[0].get("outlived") or any(r.outcome not in ORDINARY for r in answer):
            self._odd = True
        return answer

    def settle(self) -> None:
        """Between two submissions: a new jail where this one has seen anything but plain ends."""
        ended = self._server.process.poll() is not None
        if self._odd or ended or self._probes >= LIFETIME:
            self.renew()

    def renew(self) -> None:
        """Another jail in place of this one, if this one has run anything."""
        if self._probes or self._server.process.poll() is not None:
            self.close()
            self._start()

    def close(self) -> None:
        """End everything inside, and take the jail away."""
        process = self._server.process
        with contextlib.suppress(OSError):
            process.stdin.close()  # the server is process 1 in there: all else ends with it
        try:
            process.wait(5 if self._probes else 0.1)  # one that still warms up reads nothing yet
        except subprocess.TimeoutExpired:
            for pid in _descendants(process.pid):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self._server.close()
        self._jail.remove()


def _files(package: Path) -> dict[str, bytes]:
    """The package's files as blobs. They were looked at before: no links, no more than allowed."""
    found, total = {}, 0
    for path in sorted((package / "savepoint").rglob("*")):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            total += len(data)
            if total > MAX_PACKAGE:
                raise GraderFault(f"a package of more than {MAX_PACKAGE} bytes")
            found[f"package/{path.relative_to(package).as_posix()}"] = data
    # An empty package is still a package, and an empty message none.
    return found or {"package/savepoint/.empty": b""}


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [d for child in map(int, children) for d in (*_descendants(child), child)]


class Remembering:
    """Remembers what trusted runs answered: with one seed, a class asks them the same questions.

    Only runs without learner code come here, and their answers follow from their inputs. (What the
    whole course asks for one submission is 8 MB; the rest of ``budget`` is for files that several
    submissions have alike.)
    """

    def __init__(self, runner: Runner, budget: int = 24 << 20) -> None:
        self._runner, self._budget = runner, budget
        self._answers: OrderedDict[bytes, tuple[int, list[Report]]] = OrderedDict()
        self._held = 0

    def run(self, request: dict[str, Any], blobs: Mapping[str, bytes]) -> list[Report]:
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode())
        for name, blob in sorted(blobs.items()):
            digest.update(f"{name} {len(blob)}\n".encode() + blob)
        key = digest.digest()
        if key in self._answers:
            self._answers.move_to_end(key)
            return self._answers[key][1]
        answer = self._runner.run(request, blobs)
        if all(report.outcome == "ok" for report in answer):
            size = sum(len(f) for f in answer[0].files.values()) + 1024
            size += sum(len(report.tensors or b"") for report in answer)
            self._answers[key] = (size, answer)
            self._held += size
            while self._held > self._budget:
                self._held -= self._answers.popitem(last=False)[1][0]
        return answer
