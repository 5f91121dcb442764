"""Hostile packages in the jail: each attack, the verdict that it ends in, and a whole next check.

A spy collects what it could do and says so in an exception, which its verdict's message shows:
"breaches: []" means that every attempt failed. One jail serves them all, as it would serve the
checks of one submission; where an attack leaves the jail dirty, the runner replaces it.
"""

from __future__ import annotations

import hashlib
import os
import socket
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from grader import jail, registry
from grader.client import ForkServer
from grader.jail_runner import JailRunner, Remembering
from grader.judge import judge
from grader.paths import ROOT, SOLUTIONS
from grader.verdict import Status
from tests.conftest import need_jail
from tests.test_bad_input import FORGERIES, package

CHECK, LONGER = (registry.checks()[f"lr_reset.{name}"] for name in ("momentum", "same_bits"))
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
            attempt("processes outside", lambda: len(others) > 2)  # a server, an attendant
            with open("/proc/self/maps") as maps:
                attempt("memory shared with the server", lambda: "rw-s" in maps.read())
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


def test_binds_nobody_but_itself(runners, tmp_path):
    """All in a jail have one user: what is done to the server is done to the next submission."""
    spied(
        runners,
        tmp_path,
        """
        import ctypes, resource, socket
        def spy(attempt):
            libc = ctypes.CDLL(None, use_errno=True)
            for name in ("RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CPU", "RLIMIT_AS"):
                limit = getattr(resource, name)
                low = resource.getrlimit(limit)[0]
                attempt(name, lambda: bool(resource.prlimit(1, limit, (low, low))))
            attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, 1, 19) is None)
            attempt("user's priority", lambda: os.setpriority(os.PRIO_USER, 0, 19) is None)
            attempt("disk priority", lambda: libc.syscall(251, 1, 1, 3 << 13) == 0)
            attempt("processors", lambda: os.sched_setaffinity(1, {0}) is None)
            attempt("idle", lambda: os.sched_setscheduler(
                1, os.SCHED_IDLE, os.sched_param(0)) is None)
            attempt("hypervisor", lambda: socket.socket(40, socket.SOCK_STREAM))
            attempt("kernel's ciphers", lambda: socket.socket(38, socket.SOCK_SEQPACKET))
        """,
    )
    still_whole(runners)


def test_may_bind_itself(runners, tmp_path):
    source = """
    import os, resource, socket
    def save_checkpoint(path, **kw):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.prlimit(0, resource.RLIMIT_CORE, (0, 0))
        os.nice(1)
        os.sched_setaffinity(0, os.sched_getaffinity(0))
        for family in (socket.AF_UNIX, socket.AF_INET):
            socket.socket(family).close()
        complete(path, **kw)
    """
    verdict = decide(runners, package(tmp_path, source))
    assert verdict.status is Status.PASSED, verdict.as_text()


LASTING = {
    "who may enter": """
        for place in ("/tmp", "/dev/shm"): os.chmod(place, 0o500)
        """,
    "a default for the next one's files": """
        import struct
        entries = [(1, 7, -1), (4, 0, -1), (32, 0, -1)]
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        os.setxattr("/tmp", "system.posix_acl_default", acl)
        """,
    "its ports": """
        import socket
        with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
            for _ in range(3000):
                near = socket.create_connection(server.getsockname())
                far, _ = server.accept()
                near.close()
                far.close()
        """,
}


@pytest.mark.parametrize("what", LASTING)
def test_what_would_reach_the_next_submission_ends_with_its_jail(what, runners, tmp_path):
    body = textwrap.indent(textwrap.dedent(LASTING[what]), "    ")
    source = f"import os\ndef save_checkpoint(path, **kw):\n    complete(path, **kw)\n{body}"
    before = runners[0]._server.process.pid
    verdict = decide(runners, package(tmp_path, source))
    assert verdict.status is Status.PASSED, verdict.as_text()
    assert runners[0]._server.process.pid != before
    still_whole(runners)


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
    "kills its attendant": (
        """
        import os, time
        def save_checkpoint(path, **kw):
            os.kill(os.getppid(), 9)
            time.sleep(60)
        """,
        {Status.CRASHED},
    ),
    "stops its attendant": (
        """
        import os, signal, time
        def save_checkpoint(path, **kw):
            os.kill(os.getppid(), signal.SIGSTOP)
            time.sleep(60)
        """,
        {Status.CRASHED},
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


LONG = ("checkpoint that is a compressed bomb",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in ENDINGS]
)
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


HOGGING = """
import os
def save_checkpoint(path, **kw):
    while True:
        try:
            # To Linux each session is a group with a share of its own.
            if os.fork() == 0: os.setsid()
        except OSError: pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [True, False])
def test_who_takes_all_processors_takes_no_time_from_another(grouped, tmp_path, monkeypatch):
    need_jail()
    monkeypatch.setattr("grader.client.SECONDS", 1.0)
    build = jail.build
    monkeypatch.setattr(jail, "build", lambda program: build(program, cgroup=grouped))
    honest, hogging = JailRunner(), JailRunner()
    try:
        assert decide((honest, honest), SOLUTIONS).status is Status.PASSED
        hogging.wait_ready()
        with ThreadPoolExecutor(1) as beside:
            root = package(tmp_path, HOGGING)
            monkeypatch.setattr("grader.client.SECONDS", 8.0)
            ended = beside.submit(decide, (hogging, hogging), root)
            time.sleep(2)
            monkeypatch.setattr("grader.client.SECONDS", 1.0)
            found = [decide((honest, honest), SOLUTIONS, check) for check in (CHECK, LONGER)]
            assert ended.result().status in {Status.TIMED_OUT, Status.CRASHED}
        assert [v.status for v in found] == [Status.PASSED] * len(found), found
    finally:
        honest.close()
        hogging.close()


SCAN = """
import hashlib, re
def scan(pattern):
    \"\"\"Every match in this process's memory.\"\"\"
    found = []
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        for line in open("/proc/self/maps").read().splitlines():
            addresses, access = line.split()[:2]
            start, end = (int(part, 16) for part in addresses.split("-"))
            for at in range(start, end if "rw" in access else start, 1 << 22):
                try:
                    memory.seek(at)
                    data = memory.read(min(end - at, (1 << 22) + 200))
                except (OSError, ValueError, OverflowError): break
                found += [m.group(1) for m in re.finditer(pattern, data, re.DOTALL)]
    return found
"""


def test_finds_nothing_of_other_submissions_in_its_memory(runners, tmp_path):
    """Each is a fork of a server that answered for others before."""
    mark = os.urandom(16).hex()
    for name in ("mine", "yours"):
        (tmp_path / name).mkdir()
    # In its source and in files of several sizes beside its checkpoint, which go back as well.
    other = f"""
    from pathlib import Path
    NOTE = "my own idea: {mark} "
    def save_checkpoint(path, **kw):
        complete(path, **kw)
        for number in range(5):
            Path(path).with_name(f"note-{{number}}").write_text(NOTE * 10 ** number)
    """
    decide(runners, package(tmp_path / "mine", other))
    # The pattern's own bytes are not what it finds.
    spied(
        runners,
        tmp_path / "yours",
        SCAN
        + """
def spy(attempt):
    attempt("own", lambda: not scan(b"my own [s]py here: ([0-9a-f]{4})") or None)
    attempt("theirs", lambda: scan(b"my own [i]dea: ([0-9a-f]{32})") or None)
HERE = "my own spy here: 12ab"
""",
    )


def test_finds_no_expected_value_in_its_memory(runners, tmp_path):
    jailed, _ = runners
    trusted = Expecting(jailed)
    assert judge(CHECK, SOLUTIONS, jailed, trusted_runner=trusted, seed=1).status is Status.PASSED
    # Of each the half of a piece, and what the other half hashes to: the whole is not brought in.
    needles = [
        (piece[:12].hex(), hashlib.sha256(piece[12:]).hexdigest()) for piece in trusted.pieces()
    ]
    source = f"""
NEEDLES = {needles}
def spy(attempt):
    for begin, digest in NEEDLES:
        attempt(begin, lambda: any(
            hashlib.sha256(rest).hexdigest() == digest
            for rest in scan(re.escape(bytes.fromhex(begin)) + b"(.{{12}})")) or None)
"""
    spying = package(tmp_path, SPY + SCAN + source)
    # What was drawn for a run, and what a run has come to itself, lies in its memory by right.
    fresh, elsewhere = JailRunner(), ForkServer()
    try:
        by_right = judge(CHECK, spying, fresh, trusted_runner=elsewhere, seed=1)
    finally:
        fresh.close()
        elsewhere.close()
    known = by_right.message.split("breaches: ")[1].count("'") // 2
    assert len(needles) >= known + 3, by_right.as_text()
    assert decide((jailed, trusted), spying).message == by_right.message


class Expecting:
    """A trusted runner that keeps what it was answered."""

    def __init__(self, runner) -> None:
        self._runner, self.answers = runner, []

    def run(self, request, blobs):
        answer = self._runner.run(request, blobs)
        self.answers += [(blobs, report.tensors) for report in answer if report.tensors]
        return answer

    def pieces(self) -> list[bytes]:
        """24 bytes of tensors that were computed: of what went in, nothing."""
        found = []
        for blobs, tensors in self.answers:
            given = b"".join(blobs.values())
            for at in range(len(tensors) - 24, 1000, -(len(tensors) // 8)):
                piece = tensors[at : at + 24]
                if len(set(piece)) > 16 and piece not in given:
                    found.append(piece)
        return found[:12]


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
