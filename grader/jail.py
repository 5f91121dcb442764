"""The jail: bubblewrap around the server that runs a submission's code.

Inside are the interpreter, the probes and ``workbench``, read-only; a small /tmp; a loopback
interface that leads nowhere; no capabilities, no way to new namespaces. The submission itself
comes in over the server's stdin, and what its probes return leaves over stdout. There is no
solution in there, no check, no other submission, no gradebook and no home directory.

It always starts from a real uid that is not root's: bubblewrap started by root stays root outside,
and the limits would not bind. Root becomes ``nobody`` first.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import site
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from grader import jail_filter, scratch
from grader.client import ENVIRONMENT
from grader.jail_cgroup import Cgroup
from grader.paths import NOTEBOOKS, ROOT

NOBODY = 65534
TMP_BYTES = 768 << 20
SHM_BYTES = 256 << 20
PASSED_ON = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA")
COVERED = ("checks", "classroom", "cli", "release", "incidents")  # what no probe needs
HOSTS = "127.0.0.1 localhost jail\n::1 localhost\n"


@dataclass
class Jail:
    """How to start one: the command, the descriptors it inherits, what to remove afterwards."""

    folder: Path
    command: list[str]
    pass_fds: tuple[int, ...]
    cgroup: Cgroup | None = None
    _open: list[int] = field(default_factory=list)

    def started(self) -> None:
        """The command has been started, and has its own copies of the descriptors."""
        while self._open:
            os.close(self._open.pop())

    def remove(self) -> None:
        """Take away what was made for it. Everything in it must have ended."""
        self.started()
        if self.cgroup:
            self.cgroup.remove()
        shutil.rmtree(self.folder, ignore_errors=True)


def build(program: list[str], *, cgroup: bool = True) -> Jail:
    """A jail that runs ``program`` as process 1 of its own."""
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"jail-{os.getpid()}-")).resolve()
    folder.chmod(0o755)
    _write_etc(folder / "etc")
    uid, gid = (NOBODY, NOBODY) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    script, sources = ["set -e"], {}
    staged = [p for p in _mounts() if uid == NOBODY and not _reachable(p)]
    for number, path in enumerate(staged):
        # nobody cannot walk into /root, say: root binds the place where it can be reached, in a
        # mount namespace of its own, which ends with the jail.
        sources[path] = folder / f"mount-{number}"
        sources[path].mkdir()
        script.append(f"mount --bind {shlex.quote(str(path))} {shlex.quote(str(sources[path]))}")
    group = Cgroup.make(folder.name) if cgroup else None
    if group:
        script += [f"echo $$ > {shlex.quote(str(path))}" for path in group.entrances]
    inner = [*_bubblewrap(folder, sources, uid, gid), "--", *program]
    fds: list[int] = []
    if filtered := jail_filter.program():
        reading, writing = os.pipe()
        os.write(writing, filtered)
        os.close(writing)
        fds.append(reading)
        inner[1:1] = ["--seccomp", str(reading)]
    if uid == NOBODY:
        inner = [
            *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
            *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"),
            *inner,
        ]
    script.append("exec " + shlex.join(inner))
    command = ["/bin/sh", "-c", "\n".join(script)]
    if staged:
        command = ["unshare", "--mount", "--propagation", "private", "--", *command]
    return Jail(folder, command, tuple(fds), group, fds)


@cache
def sweep() -> None:
    """Take away what jails left whose process was killed. Once is enough for each process."""
    for folder in scratch.abandoned("jail"):
        with contextlib.suppress(OSError):
            Cgroup.named(folder.name).remove()
            shutil.rmtree(folder, ignore_errors=True)
    scratch.sweep()


def environment() -> dict[str, str]:
    """What the processes inside find in their environment: nothing of ours but this."""
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",
        "LANG": "C.UTF-8",
        **ENVIRONMENT,
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONDONTWRITEBYTECODE": "1",
        **kept,
    }


def _bubblewrap(folder: Path, sources: dict[Path, Path], uid: int, gid: int) -> list[str]:
    arguments = [
        "bwrap",
        *("--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"),
        *("--uid", str(uid), "--gid", str(gid), "--hostname", "jail"),
        *("--new-session", "--as-pid-1", "--clearenv"),
    ]
    for name, value in environment().items():
        arguments += ["--setenv", name, value]
    # Before all else: the course itself may lie under /tmp, and is then mounted into this one.
    arguments += ["--size", str(TMP_BYTES), "--tmpfs", "/tmp"]
    inside_tmp = ROOT.is_relative_to("/tmp")
    if inside_tmp:
        arguments += ["--size", "4096", "--tmpfs", str(ROOT)]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    for path in _mounts():
        arguments += ["--ro-bind", str(sources.get(path, path)), str(path)]
    for name in COVERED:
        arguments += ["--size", "4096", "--tmpfs", str(ROOT / "grader" / name)]
        arguments += ["--remount-ro", str(ROOT / "grader" / name)]
    if inside_tmp:  # elsewhere it is part of /, which is sealed at the end
        arguments += ["--remount-ro", str(ROOT)]
    arguments += ["--ro-bind", str(folder / "etc"), "/etc"]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    arguments += ["--size", str(SHM_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    return [*arguments, "--chdir", "/tmp", "--remount-ro", "/"]


def _mounts() -> list[Path]:
    """Directories that are seen inside, read-only, where they are outside."""
    wanted = [Path("/usr"), Path(sys.base_prefix), Path(sys.prefix)]
    # torch asks which processors there are.
    wanted += [Path("/sys/devices/system/cpu"), ROOT / "grader", NOTEBOOKS / "workbench"]
    wanted += [Path(p) for p in site.getsitepackages()]
    found: list[Path] = []
    for path in wanted:
        if path.is_dir() and not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return found


def _reachable(path: Path) -> bool:
    """Whether any user can walk to ``path`` and read it."""
    return all(p.stat().st_mode & 0o001 for p in (path, *path.parents)) and bool(
        path.stat().st_mode & 0o004
    )


def _write_etc(etc: Path) -> None:
    etc.mkdir()
    (etc / "hosts").write_text(HOSTS)
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
    uid = NOBODY if os.geteuid() == 0 else os.geteuid()
    (etc / "passwd").write_text(f"learner:x:{uid}:{uid}::/tmp:/bin/sh\n")
    (etc / "group").write_text(f"learner:x:{uid}:\n")
    cache = Path("/etc/ld.so.cache")
    if cache.is_file():
        shutil.copyfile(cache, etc / "ld.so.cache")
    for path in etc.iterdir():
        path.chmod(0o644)
