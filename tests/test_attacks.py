"""Hostile packages in the jail: each attack, the verdict that it ends in, and a whole next check.

A spy collects what it could do and says so in an exception, which its verdict's message shows:
"breaches: []" means that every attempt failed. One jail serves them all, as it would serve the
checks of one submission; where an attack leaves the jail dirty, the runner replaces it.
"""

from __future__ import annotations

import os
import socket
import textwrap

import pytest

from grader import registry
from grader.jail_runner import JailRunner, Remembering
from grader.judge import judge
from grader.paths import ROOT, SOLUTIONS
from grader.verdict import Status
from tests.conftest import need_jail
from tests.test_bad_input import FORGERIES, package

CHECK = registry.checks()["lr_reset.momentum"]
SPY = """
import os, sys
def attempt(breaches, name, function):
    try:
        found = function()
    except BaseException:
        return
    if found is not None and found is not False:
        breaches.append(name)
def save_checkpoint(path, **kw):
    breaches = []
    spy(lambda name, function: attempt(breaches, name, function))
    raise RuntimeError(f"breaches: {breaches}")
"""


@pytest.fixture(scope="module")
def runners():
    need_jail()
    os.environ["SECRET_OF_THE_GRADER"] = "in the environment"
    jailed = JailRunner()
    trusted = Remembering(jailed)
    yield jailed, trusted
    jailed.close()
    del os.environ["SECRET_OF_THE_GRADER"]


def decide(runners, root, check=CHECK):
    jailed, trusted = runners
    return judge(check, root, jailed, trusted_runner=trusted, seed=1)


def still_whole(runners) -> None:
    after = decide(runners, SOLUTIONS)
    assert after.status is Status.PASSED, after.as_text()


def spied(runners, tmp_path, source: str):
    verdict = decide(runners, package(tmp_path, SPY + textwrap.dedent(source)))
    assert verdict.points == 0
    assert "breaches: []" in verdict.message, verdict.as_text()


def test_the_spy_itself_would_tell(runners, tmp_path):
    """Otherwise the tests below could not fail."""
    source = "def spy(attempt): attempt('own memory', lambda: open('/proc/self/maps').read())"
    verdict = decide(runners, package(tmp_path, SPY + source))
    assert "breaches: ['own memory']" in verdict.message


def test_reads_nothing_of_the_course_the_class_or_the_machine(runners, tmp_path):
    gradebook = tmp_path / "gradebook.db"
    gradebook.write_text("marks")
    other = tmp_path / "submitted" / "bob" / "savepoint"
    other.mkdir(parents=True)
    (other / "checkpoint.py").write_text("mine")
    places = [
        SOLUTIONS / "savepoint" / "checkpoint.py",
        SOLUTIONS / "01_lr_reset.py",
        ROOT / "tests" / "test_attacks.py",
        ROOT / "grader" / "checks" / "lr_reset.py",
        ROOT / "grader" / "incidents" / "01_lr_reset.toml",
        ROOT / ".git" / "HEAD",
        gradebook,
        other / "checkpoint.py",
        "/etc/shadow",
        "/etc/hostname",
        "/root/.bashrc",
        "/var/log",
        "/run",
        "/home",
    ]
    spied(
        runners,
        tmp_path,
        f"""
        def spy(attempt):
            for place in {[str(p) for p in places]}:
                attempt(place, lambda: os.listdir(place) if os.path.isdir(place) else open(place))
            attempt("environment", lambda: os.environ.get("SECRET_OF_THE_GRADER"))
            others = [p for p in os.listdir("/proc") if p.isdecimal() and int(p) != os.getpid()]
            for pid in others:
                for name in ("environ", "mem", "maps", "fd", "root", "cwd"):
                    path = f"/proc/{{pid}}/{{name}}"
                    attempt(path, lambda: os.listdir(path) if os.path.isdir(path) else
                            open(path, "rb").read(1))
            attempt("processes outside", lambda: len(others) > 1)
        """,
    )


def test_writes_nowhere_but_in_tmp(runners, tmp_path):
    spied(
        runners,
        tmp_path,
        f"""
        def spy(attempt):
            for place in ("/", "/usr", "/etc", "/dev", "/root", "/var", "/home", "/sys",
                          {str(ROOT)!r}, {str(ROOT / "grader")!r}, sys.prefix, sys.base_prefix):
                attempt(place, lambda: open(f"{{place}}/written", "w"))
            attempt("server's memory", lambda: open("/proc/1/mem", "r+b"))
            attempt("server's descriptor", lambda: open("/proc/1/fd/1", "wb"))
            attempt("oom", lambda: open("/proc/1/oom_score_adj", "w").write("1000"))
            attempt("sysctl", lambda: open("/proc/sys/kernel/hostname", "w").write("x"))
        """,
    )
    still_whole(runners)


def test_reaches_no_network_and_no_socket_of_the_host(runners, tmp_path):
    name = f"\0bit-for-bit-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as local,
    ):
        local.bind(name)
        local.listen()
        spied(
            runners,
            tmp_path,
            f"""
            import socket
            def spy(attempt):
                attempt("host's loopback", lambda: socket.create_connection(
                    ("127.0.0.1", {server.getsockname()[1]}), timeout=2))
                attempt("outside", lambda: socket.create_connection(("1.1.1.1", 53), timeout=2))
                attempt("names", lambda: socket.getaddrinfo("example.org", 80))
                unix = socket.socket(socket.AF_UNIX)
                attempt("abstract socket", lambda: unix.connect({name!r}) or True)
                attempt("raw", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            """,
        )


def test_gets_no_privilege_and_leaves_nothing_in_the_kernel(runners, tmp_path):
    spied(
        runners,
        tmp_path,
        """
        import ctypes, resource
        def spy(attempt):
            libc = ctypes.CDLL(None, use_errno=True)
            attempt("user namespace", lambda: libc.unshare(0x10000000) == 0)
            attempt("clone", lambda: libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0) > 0)
            attempt("mount", lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0)
            attempt("keyring", lambda: libc.syscall(248, b"user", b"a", b"b", 1, -4) > 0)
            attempt("shared memory", lambda: libc.shmget(1, 4096, 0o1666) >= 0)
            attempt("queue", lambda: libc.syscall(240, b"q", 0o102, 0o600, None) >= 0)
            attempt("ptrace", lambda: libc.ptrace(16, 1, None, None) == 0)
            attempt("setuid", lambda: os.setuid(0) is None)
            attempt("chroot", lambda: os.chroot("/tmp") is None)
            attempt("more processes", lambda: resource.setrlimit(
                resource.RLIMIT_NPROC, (5000, 5000)) is None)
            attempt("more memory", lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)) is None)
        """,
    )


ENDINGS = {
    "fork bomb": (
        """
        import os
        def save_checkpoint(path, **kw):
            while True:
                try: os.fork()
                except OSError: pass
        """,
        {Status.TIMED_OUT, Status.CRASHED},
    ),
    "memory bomb of many processes": (
        """
        import os, time
        def save_checkpoint(path, **kw):
            for _ in range(16):
                if os.fork() == 0:
                    hoard = [bytearray(b"x" * (1 << 26)) for _ in range(12)]
                    time.sleep(60)
            time.sleep(60)
        """,
        {Status.TIMED_OUT, Status.CRASHED, Status.OUT_OF_MEMORY},
    ),
    "disk filler": (
        """
        def save_checkpoint(path, **kw):
            for place in ("/tmp", "/dev/shm"):
                number = 0
                try:
                    while True:
                        number += 1
                        with open(f"{place}/filler-{number}", "wb") as f: f.write(b"x" * (1 << 24))
                except OSError: pass
            complete(path, **kw)
        """,
        {Status.WRONG},
    ),
    "deep directories": (
        """
        import os
        def save_checkpoint(path, **kw):
            here = os.getcwd()
            os.chdir("/tmp")
            for _ in range(1500):
                os.mkdir("d"); os.chdir("d")
            os.chdir(here)
            complete(path, **kw)
        """,
        {Status.PASSED},
    ),
    "kills everything it can": (
        """
        import os, signal
        def save_checkpoint(path, **kw):
            for signum in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
                try: os.kill(1, signum)
                except OSError: pass
            os.kill(-1, signal.SIGKILL)
        """,
        {Status.CRASHED, Status.WRONG},
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
        {Status.TIMED_OUT},
    ),
    "endless output": (
        "def save_checkpoint(path, **kw):\n    while True: print('x' * (1 << 20))",
        {Status.CRASHED},
    ),
    "daemon that goes on writing": (
        """
        import os, time
        def save_checkpoint(path, **kw):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    while True:
                        for fd in range(16):
                            try: os.write(fd, b"forged")
                            except OSError: pass
                        time.sleep(0.01)
                os._exit(0)
            complete(path, **kw)
        """,
        # What it wrote between the true messages made them unreadable: its own loss.
        {Status.PASSED, Status.CRASHED, Status.WRONG},
    ),
    "pickle bomb as checkpoint": (
        """
        import os, pickle
        class Bomb:
            def __reduce__(self): return (os.system, ("touch /tmp/exploded; sleep 60",))
        def save_checkpoint(path, **kw):
            import torch
            torch.save({"model_state_dict": Bomb(), "optimizer_state_dict": Bomb()}, path)
        """,
        {Status.WRONG},
    ),
    "checkpoint that is a compressed bomb": (
        """
        import zipfile
        def save_checkpoint(path, **kw):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
                z.writestr("archive/data.pkl", b"\\x80\\x02]" + b"]" * (200 << 20) + b".")
                z.writestr("archive/version", "3")
        """,
        {Status.WRONG},
    ),
    "patched torch.load, torch.save, json and os.replace": (
        """
        import json, os, torch
        torch.save = lambda *a, **k: open(a[1], "wb").write(b"nothing")
        torch.load = lambda *a, **k: {}
        json.dumps = lambda *a, **k: '{"outcome": "ok", "facts": {}, "blobs": []}'
        os.replace = lambda *a: None
        def save_checkpoint(path, **kw): torch.save({}, path)
        def load_checkpoint(path, **kw): return {"epoch": 0, "loss": 0.0}
        """,
        {Status.WRONG, Status.CRASHED},
    ),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_ends_in_its_verdict_and_the_next_check_is_whole(name, runners, tmp_path, monkeypatch):
    monkeypatch.setattr("grader.client.SECONDS", 6.0)
    source, expected = ENDINGS[name]
    verdict = decide(runners, package(tmp_path, source))
    assert verdict.status in expected, verdict.as_text()
    if verdict.status is not Status.PASSED:
        assert verdict.points == 0
    still_whole(runners)


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_earns_nothing_in_the_jail(name, runners, tmp_path):
    verdict = decide(runners, package(tmp_path, FORGERIES[name]))
    assert verdict.points == 0, verdict.as_text()
    assert verdict.status is not Status.GRADER_FAULT, verdict.as_text()


def test_a_package_that_shadows_the_grader_shadows_nothing(runners, tmp_path):
    root = package(tmp_path, "from savepoint.reference import *")
    for name in ("grader", "workbench", "torch", "json"):
        (root / name).mkdir()
        (root / name / "__init__.py").write_text("raise SystemExit('shadowed')")
        (root / "savepoint" / f"{name}.py").write_text("raise SystemExit('shadowed')")
    verdict = decide(runners, root)
    assert verdict.status is Status.PASSED, verdict.as_text()


def test_nothing_is_carried_from_one_probe_to_the_next(runners, tmp_path):
    """What a save leaves outside its checkpoint, a load does not find."""
    source = """
    import os
    PLACES = ("/tmp/kept", "/dev/shm/kept", "/tmp/.hidden/kept", "/var/tmp/kept")
    def save_checkpoint(path, **kw):
        for place in PLACES:
            try:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                with open(place, "w") as f: f.write("state")
                if "hidden" in place: os.chmod(os.path.dirname(place), 0)
            except OSError: pass
        complete(path, **kw)
    def load_checkpoint(path, **kw):
        raise RuntimeError(f"found: {[p for p in PLACES if os.path.exists(p)]}")
    """
    verdict = decide(runners, package(tmp_path, source))
    assert "found: []" in verdict.message, verdict.as_text()


def test_no_process_and_no_file_outlives_a_jail(tmp_path):
    runner = JailRunner()
    decide((runner, runner), SOLUTIONS)
    folder, groups = runner._jail.folder, runner._jail.cgroup
    pid = runner._server.process.pid
    runner.close()
    assert not folder.exists()
    assert not any(f.exists() for f in (groups.folders if groups else []))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
