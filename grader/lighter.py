"""What a process need not carry: torch's compiler, a grammar, many small pages.

``torch.optim`` imports ``torch._dynamo`` at an optimizer's first use, for two functions that do
nothing outside of a compilation. That import takes as long as torch's own (2 s of CPU, measured
with torch 2.13), and 90 MB of the 240 that a server has. Until a probe compiles something, a
stand-in has the two; at the first question for anything else the real module takes its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"
HUGE = 2 << 20  # bytes of a huge page
MADV_COLLAPSE = 25


class _Later(ModuleType):
    """Answers what ``torch.optim`` asks; becomes the real module when asked for more."""

    def graph_break(self, msg: str = "") -> None:
        """As the real one, which acts only while a function is being compiled."""

    def disable(self, fn: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
        """``fn`` itself: nothing is being compiled, so there is nothing to keep it out of."""
        return fn if fn is not None else self.disable

    def __getattr__(self, name: str) -> Any:
        # inspect asks every module for its __file__; an import of a part asks for __path__.
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
        real = importlib.import_module(NAME)
        self.__dict__.update(real.__dict__)
        return getattr(real, name)


def put_off_compiler() -> None:
    """Let ``torch._dynamo`` be imported when it is needed. Without effect if it has been."""
    import torch

    if NAME not in sys.modules:
        torch._dynamo = sys.modules[NAME] = _Later(NAME)


def skip_iri_grammar() -> None:
    """Let jsonschema be imported without its check of IRIs, whose grammar takes it 2 s to compile.

    It does without where the package is absent; no notebook's schema has an IRI in it.
    """
    if "jsonschema" not in sys.modules:
        sys.modules.setdefault("rfc3987_syntax", None)  # what import takes for "not there"


def join_pages() -> None:
    """Have this process's memory in huge pages where Linux can (6.1): a fork copies their table.

    Of small ones it has 40,000, and copies an entry for each.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
        for line in Path("/proc/self/maps").read_text().splitlines():
            addresses, access, _, _, inode, *name = line.split()
            if access != "rw-p" or inode != "0" or name not in ([], ["[heap]"]):
                continue
            start, end = (int(address, 16) for address in addresses.split("-"))
            start, end = -(-start // HUGE) * HUGE, end // HUGE * HUGE
            if start < end:
                advise(start, end - start, MADV_COLLAPSE)


def asks(request: Mapping[str, Any]) -> bool:
    """Whether a probe will import the compiler.

    DistributedDataParallel does, and the switch for deterministic algorithms, notebook 02's.
    """
    return request.get("world_size", 1) > 1 or request["probe"].startswith("seed_gaps")


def load_compiler() -> None:
    """Have the real one before a probe that will import it, and before its time is counted."""
    module = sys.modules.get(NAME)
    if isinstance(module, _Later):
        module.__getattr__("__path__")  # any name that the stand-in lacks
        importlib.import_module("torch._inductor.config")
