"""The warm server: torch is imported and one training step done; each probe is a fork of it.

    python -m grader.server             fork a process for each probe, until stdin ends
    python -m grader.server --single    be the process for one probe (where fork is not safe)
    python -m grader.server --jailed    as the first, as process 1 of a jail (see jail.py)

A fork costs milliseconds; importing torch and taking a first step costs seconds. The server runs
no learner code itself, has one thread (forked children of a threaded process can hang), and ends
when its stdin does. Requests come on stdin, reports go to stdout (see wire.py).

In a jail the server reads no request: for each it forks an attendant, which does (attendant.py).
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import traceback
from typing import Any

from grader import attendant, jailed, lighter, wire
from grader.attendant import PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, prctl


def warm() -> None:
    """Import everything a probe uses and train one step, so that no fork has to."""
    import io
    import pkgutil
    import platform
    import tempfile

    import torch

    from grader import child, probes

    lighter.put_off_compiler()
    torch.set_num_threads(1)
    for module in pkgutil.iter_modules(probes.__path__):
        __import__(f"grader.probes.{module.name}")
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    for optimizer in (
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        torch.optim.AdamW(model.parameters()),
    ):
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        torch.nn.functional.cross_entropy(model(torch.ones(4, 4)), torch.ones(4).long()).backward()
        optimizer.step()
        scheduler.step()
        # Both import on first use, and seeding reads source files.
        torch.save([model.state_dict(), optimizer.state_dict()], file := io.BytesIO())
        file.seek(0)
        torch.load(file)
    platform.platform()  # asks another process
    child.pack(model.state_dict())
    torch.manual_seed(0)
    tempfile.gettempdir()  # tries the directory out, once
    with contextlib.suppress(ImportError):  # Windows
        import resource  # noqa: F401
    # What is here stays, and a fork's collector does not touch it: a page touched is a page copied.
    gc.collect()
    gc.freeze()
    lighter.join_pages()


def serve() -> None:
    """Answer requests one after another until stdin ends."""
    requests, reports = _own_streams()
    if "--jailed" in sys.argv:
        jailed.bind_server()
    warm()
    # A probe must not write this process's memory, nor an attendant's, through /proc.
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # an attendant that is killed leaves its probe to us
    wire.send(reports, {"ready": True, "pid": os.getpid()})
    while _announced(requests):
        if jailed.inside():
            _attended(requests, reports)
        else:
            attendant.answer(requests, reports)
    if jailed.inside():
        os._exit(0)  # process 1: the jail is waited for


def _announced(requests: int) -> bool:
    """Whether a request follows; False at the end. What it will import is imported first."""
    kind = os.read(requests, 1)
    if kind == wire.COMPILED:
        lighter.load_compiler()
    return bool(kind)


def _attended(requests: int, reports: Any) -> None:
    """Have a fork of this process answer one request. A probe can kill or stop it: that is said."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            prctl(PR_SET_CHILD_SUBREAPER, 1)  # what a probe leaves running is the attendant's
            attendant.answer(requests, reports)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(pid, os.WUNTRACED)[1]
    if os.WIFEXITED(status):
        if status:
            os._exit(1)  # a fault of ours; it has said which
        return
    attendant.kill_descendants()
    wire.send(reports, {"lost": -signal.SIGKILL, "clean": jailed.is_clean(), "outlived": True})


def serve_single() -> None:
    """Run the probe of one request in this very process; whoever started us keeps the time."""
    from grader import child

    requests, reports = _own_streams()
    warm()
    wire.send(reports, {"ready": True, "pid": os.getpid()})
    message = wire.receive(os.fdopen(requests, "rb")) if _announced(requests) else None
    if message is None:
        return
    header, blobs = message
    os.chdir(header["cwd"])
    attendant.limit(header)
    child.run(header, blobs, reports)
    sys.stdout.flush()
    os._exit(0)


def _own_streams() -> tuple[int, Any]:
    """The protocol's streams, moved away from descriptors 0 and 1: a print must not reach them."""
    requests = os.dup(0)
    reports = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, reports


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the kernel's Interrupt is not for us
    serve_single() if "--single" in sys.argv else serve()
