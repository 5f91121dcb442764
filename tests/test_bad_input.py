"""Whatever a learner's file does: a short message of its own, and the next check is whole."""

from __future__ import annotations

import textwrap

import pytest

from grader import registry
from grader.judge import judge
from grader.paths import SOLUTIONS
from grader.verdict import Status

CHECK = registry.checks()["lr_reset.momentum"]
HEAD = """
from savepoint.reference import *
from savepoint.reference import save_checkpoint as complete
"""
CASES = {
    "syntax error": ("def save_checkpoint(:\n    pass", Status.CRASHED, "cannot read your file"),
    "missing import": ("import no_such_module", Status.CRASHED, "no_such_module"),
    "wrong signature": ("def save_checkpoint(path, model): pass", Status.WRONG, "signature"),
    "wrong name": ("def load_checkpoint(path, **kw): return None", Status.WRONG, "weights"),
    "raises": ('def save_checkpoint(path, **kw): {}["lr"]', Status.WRONG, "KeyError"),
    "sys.exit": (
        "import sys\ndef save_checkpoint(path, **kw): sys.exit(3)",
        Status.CRASHED,
        r"sys.exit\(3\)",
    ),
    "os._exit": (
        "import os\ndef save_checkpoint(path, **kw): os._exit(0)",
        Status.CRASHED,
        "ended by itself",
    ),
    "segfault": (
        "import os\ndef save_checkpoint(path, **kw): os.kill(os.getpid(), 11)",
        Status.CRASHED,
        "SIGSEGV",
    ),
    "exit at import": ("import os\nos._exit(0)", Status.CRASHED, "import savepoint.checkpoint"),
    "endless loop": (
        "def save_checkpoint(path, **kw):\n    while True: pass",
        Status.TIMED_OUT,
        "never ends",
    ),
    "endless loop, signals blocked": (
        """
        import signal
        def save_checkpoint(path, **kw):
            signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))
            while True:
                try:
                    while True: pass
                except BaseException: pass
        """,
        Status.TIMED_OUT,
        "never ends",
    ),
    "memory": (
        "def save_checkpoint(path, **kw): x = [bytearray(1 << 28) for _ in range(64)]",
        Status.OUT_OF_MEMORY,
        "more memory",
    ),
    "memory, by torch": (
        "import torch\ndef save_checkpoint(path, **kw): torch.ones(1 << 33)",
        Status.OUT_OF_MEMORY,
        "more memory",
    ),
    "prints a gigabyte": (
        "def save_checkpoint(path, **kw):\n    for _ in range(1024): print('x' * (1 << 20))",
        Status.CRASHED,
        "printed more than",
    ),
    "forks a daemon": (
        """
        import os, time
        def save_checkpoint(path, **kw):
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
            complete(path, **kw)
        """,
        Status.PASSED,
        "momentum came back",
    ),
    "changes the directory": (
        """
        import os
        def save_checkpoint(path, **kw):
            complete(path, **kw)
            os.chdir("/")
        """,
        Status.PASSED,
        "working directory",
    ),
    "sets threads": (
        """
        import torch
        def save_checkpoint(path, **kw):
            torch.set_num_threads(2)
            complete(path, **kw)
        """,
        Status.PASSED,
        "2 threads",
    ),
    "prints, warns and logs": (
        """
        import logging, sys, warnings
        def save_checkpoint(path, **kw):
            print("saving"); warnings.warn("slow disk"); logging.error("?"); sys.stderr.write("!")
            complete(path, **kw)
        """,
        Status.PASSED,
        "momentum came back",
    ),
}


def package(tmp_path, source: str):
    """The reference with ``source`` appended to a module that starts from all of it."""
    folder = tmp_path / "savepoint"
    folder.mkdir()
    reference = (SOLUTIONS / "savepoint" / "checkpoint.py").read_text()
    (folder / "__init__.py").write_text("")
    (folder / "reference.py").write_text(reference)
    text = textwrap.dedent(source)
    needs_head = "complete" in text or "def " in text
    (folder / "checkpoint.py").write_text((HEAD if needs_head else "") + text + "\n")
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_own_message_and_the_next_check_is_whole(name, runner, tmp_path, monkeypatch):
    source, status, said = CASES[name]
    if status is Status.TIMED_OUT:
        monkeypatch.setattr("grader.client.SECONDS", 2.0)
    verdict = judge(CHECK, package(tmp_path, source), runner, seed=1)
    assert verdict.status is status, verdict.as_text()
    import re

    assert re.search(said, verdict.message) or name == "wrong name", verdict.as_text()
    assert "Traceback" not in verdict.message
    assert len(verdict.message) < 700
    after = judge(CHECK, SOLUTIONS, runner, seed=1)
    assert after.status is Status.PASSED, after.as_text()


def test_seeding_inside_save_is_told(runner, tmp_path):
    source = """
    import torch
    def save_checkpoint(path, **kw):
        torch.manual_seed(0)
        complete(path, **kw)
    """
    check = registry.checks()["lr_reset.invisible"]
    verdict = judge(check, package(tmp_path, source), runner, seed=1)
    assert verdict.status is Status.WRONG
    assert verdict.hint == "lr_reset.invisible.save_disturbs"


def test_an_edit_in_the_same_second_and_of_the_same_size_is_seen(runner, tmp_path):
    """A stale .pyc would serve the old code (FACTS F13)."""
    import compileall

    root = package(tmp_path, "def save_checkpoint(path, **kw): raise KeyError('a')")
    compileall.compile_dir(root, quiet=1)
    module = root / "savepoint" / "checkpoint.py"
    stamp = module.stat()
    module.write_text(module.read_text().replace("KeyError('a')", "KeyError('b')"))
    import os

    os.utime(module, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert "'b'" in judge(CHECK, root, runner, seed=1).message


FORGERIES = {
    "patched comparison": """
        import torch
        torch.equal = torch.allclose = lambda *a, **k: True
        torch.Tensor.__eq__ = lambda *a: True
        def save_checkpoint(path, **kw): torch.save({}, path)
        def load_checkpoint(path, **kw): return {"epoch": 0, "loss": 0.0}
    """,
    "patched hashes": """
        import hashlib
        class Same:
            def update(self, *a): pass
            def hexdigest(self): return "0" * 64
        hashlib.sha256 = lambda *a: Same()
        def save_checkpoint(path, **kw): open(path, "wb").write(b"x")
        def load_checkpoint(path, **kw): return {"epoch": 0, "loss": 0.0}
    """,
    "display hook": """
        import builtins, sys
        sys.displayhook = lambda *a: print(3.0)
        def save_checkpoint(path, **kw): print(3.0); sys.stdout.flush()
        def load_checkpoint(path, **kw): print(3.0)
    """,
    "asserts removed": """
        import ast, sys
        class NoAsserts(ast.NodeTransformer):
            def visit_Assert(self, node): return ast.Pass()
        def save_checkpoint(path, **kw): open(path, "wb").close()
        def load_checkpoint(path, **kw): return {"epoch": 0, "loss": 0.0}
    """,
    "equal to everything": """
        class Everything(dict):
            def __eq__(self, other): return True
            def __getattr__(self, name): return self
            def __float__(self): return 3.0
        def save_checkpoint(path, **kw): open(path, "wb").close()
        def load_checkpoint(path, **kw): return Everything()
    """,
    "forged evidence": """
        import os, json, struct
        def save_checkpoint(path, **kw): open(path, "wb").close()
        def load_checkpoint(path, **kw):
            forged = {"outcome": "ok", "status": "passed", "points": 3, "facts": {}, "blobs": []}
            text = json.dumps(forged)
            for fd in range(3, 64):
                try: os.write(fd, struct.pack(">I", len(text)) + text.encode())
                except OSError: pass
            os._exit(0)
    """,
    "recipe instead of state": """
        MEMORY = {}
        def save_checkpoint(path, **kw):
            MEMORY.update(kw); complete(path, **kw)
            import torch
            saved = torch.load(path); saved["model_state_dict"] = {}; torch.save(saved, path)
        def load_checkpoint(path, **kw): return {"epoch": 0, "loss": 0.0}
    """,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_earns_nothing(name, runner, tmp_path):
    root = package(tmp_path, FORGERIES[name])
    for check in registry.incidents()["lr_reset"].checks:
        if check.kind == "core" and check.id != "lr_reset.rng":
            verdict = judge(check, root, runner, seed=1)
            assert verdict.points == 0, verdict.as_text()
            assert verdict.status is not Status.GRADER_FAULT, verdict.as_text()
