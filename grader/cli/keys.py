"""Single key presses from a terminal, without Enter; nothing where stdin is not a terminal."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def keys(events: queue.Queue[tuple[str, str]]) -> Iterator[bool]:
    """Put ("key", letter) into ``events`` for each press; yields whether there are keys at all.

    The terminal is put back as it was, however the block ends.
    """
    if not sys.stdin.isatty():
        yield False
        return
    stop = threading.Event()
    with _letters() as read:
        thread = threading.Thread(target=_follow, args=(read, events, stop), daemon=True)
        thread.start()
        try:
            yield True
        finally:
            stop.set()
            thread.join(1)


def _follow(read, events: queue.Queue[tuple[str, str]], stop: threading.Event) -> None:
    while not stop.is_set():
        pressed = read(0.2)
        if pressed is None:  # the terminal has gone
            events.put(("key", "q"))
            return
        for letter in pressed:
            events.put(("key", letter.lower()))


@contextlib.contextmanager
def _letters():
    """A function that waits some seconds and returns what was pressed: "" for nothing."""
    try:
        import termios
        import tty
    except ImportError:
        yield _windows
        return
    import select

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read(seconds: float) -> str | None:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        if not ready:
            return ""
        try:
            return os.read(descriptor, 64).decode(errors="ignore") or None
        except OSError:
            return None

    tty.setcbreak(descriptor)
    try:
        yield read
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _windows(seconds: float) -> str:
    import msvcrt
    import time

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if msvcrt.kbhit():
            return msvcrt.getwch()
        time.sleep(0.02)
    return ""
