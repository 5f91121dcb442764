"""Things that go wrong, on purpose and on time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def kill_now() -> None:
    """End this process as ``kill -9`` does: nothing is flushed, no ``finally`` runs."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def kill_at(step: int) -> Callable[[int], None]:
    """An ``on_step`` hook for ``train`` that kills this process after optimizer step ``step``."""

    def hook(done: int) -> None:
        if done >= step:
            kill_now()

    return hook
