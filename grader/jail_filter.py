"""The jail's system-call filter: a small seccomp program that bubblewrap installs.

It refuses what a training step never needs and what would outlive a probe or reach past it:
kernel keyrings, System V and POSIX message objects (all of them live on in a namespace when their
maker has been killed), memory that no limit counts (memfd), new namespaces, mounts, looking into
other processes, and sockets of families that a network namespace does not hold (AF_VSOCK). Limits,
priority and processors a process may set for itself alone: all in a jail have one user, and what
was done to the server would bind the next submission. Nor may it begin a session, which has a
share of the processors of its own (sched_autogroup). x86-64 was run; the numbers for aarch64 come
from the kernel's table.
"""

from __future__ import annotations

import errno
import platform
import struct

# name: (x86_64, aarch64), from the kernel's syscall tables
REFUSED = {
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "ioprio_set": (251, 30),
    "setsid": (112, 157),
}
# name: (numbers, how many of its first arguments must be 0, which means the caller itself)
OWN_ONLY = {
    "prlimit64": ((302, 261), 1),
    "sched_setaffinity": ((203, 122), 1),
    "sched_setscheduler": ((144, 119), 1),
    "sched_setparam": ((142, 118), 1),
    "sched_setattr": ((314, 274), 1),
    "setpriority": ((141, 140), 2),
}
SOCKET = (41, 198)
FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, which getaddrinfo uses
CLONE, CLONE3 = (56, 220), (435, 435)
NEW_NAMESPACES = 0x7E020000  # the CLONE_NEW… flags
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def program() -> bytes | None:
    """The filter for this machine, as ``struct sock_filter``s; None where the table has none."""
    column, architecture = ARCHITECTURES.get(platform.machine(), (None, None))
    if column is None:
        return None
    refuse = _ERRNO | errno.EPERM
    steps: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        # x32's system calls have a bit of their own and would pass by every number below.
        (_AT_LEAST, 0, 1, 0x40000000),
        (_RETURN, 0, 0, refuse),
    ]
    for numbers in REFUSED.values():
        steps += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, refuse)]
    for numbers, zeros in OWN_ONLY.values():
        checked = []
        for number in range(zeros):
            # As far as the refusal: the other arguments' two steps each, and the permission.
            rest = 2 * (zeros - 1 - number) + 1
            checked += [(_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * number), (_EQUAL, 0, rest, 0)]
        checked += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, refuse)]
        steps += [(_EQUAL, 0, len(checked), numbers[column]), *checked]
    families = [(_EQUAL, len(FAMILIES) - n, 0, family) for n, family in enumerate(FAMILIES)]
    families += [(_RETURN, 0, 0, _ERRNO | errno.EAFNOSUPPORT), (_RETURN, 0, 0, _ALLOW)]
    steps += [
        (_EQUAL, 0, len(families) + 1, SOCKET[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        *families,
        # clone3's flags lie in memory, where a filter cannot look; libc falls back to clone.
        (_EQUAL, 0, 1, CLONE3[column]),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        (_EQUAL, 0, 3, CLONE[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 0, 1, NEW_NAMESPACES),
        (_RETURN, 0, 0, refuse),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)
