"""grader: what decides. A notebook imports ``card, check, hint, progress, replay, tasks``."""

from typing import Any

__all__ = ["card", "check", "hint", "progress", "replay", "tasks"]


def __getattr__(name: str) -> Any:
    # Looked up on first use: a server or the command line never pays for the notebook's side.
    if name in __all__:
        from grader import cards, notebook

        return getattr(cards if name in ("card", "progress", "tasks") else notebook, name)
    raise AttributeError(name)
