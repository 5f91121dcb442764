"""What jail this machine can build, and what to mend where it cannot: for doctor and grade."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from grader import jail, jail_filter

CHECKED = """
import os, socket
assert os.getpid() == 1 and os.getuid() != 0
assert "CapEff:\\t0000000000000000" in open("/proc/self/status").read()
assert not os.path.exists("/home") and not os.path.exists("/tmp/.X11-unix")
with socket.create_server(("127.0.0.1", 0)) as s:
    socket.create_connection(s.getsockname()).close()
print("whole")
"""


@dataclass(frozen=True)
class Tier:
    """``name`` is "full", "partial" (something runs, but not all of the wall is there), "none"."""

    name: str
    missing: tuple[str, ...]
    extras: tuple[str, ...] = ()

    @property
    def full(self) -> bool:
        return self.name == "full"


@cache
def find() -> Tier:
    """Build a jail and look at it from inside. A fraction of a second."""
    if sys.platform != "linux":
        return Tier("none", ("the jail is Linux's (bubblewrap): grade on Linux, or in a VM",))
    missing = [
        f"{program} is not installed: sudo apt-get install {package}"
        for program, package in (("bwrap", "bubblewrap"), ("setpriv", "util-linux"))
        if not shutil.which(program) and (program == "bwrap" or os.geteuid() == 0)
    ]
    if missing:
        return Tier("none", tuple(missing))
    made = jail.build([sys.executable, "-P", "-B", "-I", "-c", CHECKED])
    try:
        ended = subprocess.run(
            made.command,
            pass_fds=made.pass_fds,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Tier("none", (f"the jail did not start: {error}",))
    finally:
        grouped = made.cgroup is not None
        made.remove()
    if ended.returncode or "whole" not in ended.stdout:
        return Tier(*_diagnosed(ended.stderr.strip()))
    if jail_filter.program() is None:
        machine = platform.machine()
        return Tier("partial", (f"there is no system-call filter for {machine} processors",))
    memory = "memory bounded by a control group" if grouped else "memory bounded by its server"
    return Tier("full", (), (memory,))


def _diagnosed(said: str) -> tuple[str, tuple[str, ...]]:
    """(tier, what is missing), from what bubblewrap said and what the kernel's settings are."""
    last = said.splitlines()[-1][:200] if said else "it said nothing"
    if "disable-userns" in said and ("nknown" in said or "nrecogn" in said):
        return "partial", (
            "this bubblewrap has no --disable-userns (0.8.0 and later have): install a newer one",
        )
    causes = []
    if _setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        causes.append(
            "kernel.apparmor_restrict_unprivileged_userns is 1 (Ubuntu 23.10 and later): AppArmor "
            "forbids user namespaces. Allow them for bubblewrap with a profile in "
            "/etc/apparmor.d/bwrap: `abi <abi/4.0>, profile bwrap /usr/bin/bwrap "
            "flags=(unconfined) { userns, }`, then sudo systemctl reload apparmor; or for "
            "everything: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
    if _setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        causes.append(
            "kernel.unprivileged_userns_clone is 0: sudo sysctl kernel.unprivileged_userns_clone=1"
        )
    if _setting("/proc/sys/user/max_user_namespaces") == "0":
        causes.append("user.max_user_namespaces is 0: sudo sysctl user.max_user_namespaces=15000")
    if not causes and "mount" in said and os.geteuid() == 0:
        causes.append(
            "root may not mount here, so what lies in a directory that only root can enter cannot "
            f"be shown to the jail: install Python and the course outside of {Path.home()}"
        )
    if not causes and Path("/.dockerenv").exists():
        causes.append(
            "this is a container that may make no namespaces: run it with --security-opt "
            "seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths="
            "unconfined, or grade on the host"
        )
    return "none", (*causes, f"bubblewrap ended with: {last}")


def _setting(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
