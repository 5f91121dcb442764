"""Imports that take seconds and are not needed: torch's compiler, and a grammar.

``torch.optim`` imports ``torch._dynamo`` at an optimizer's first use, for two functions that do
nothing outside of a compilation. That import takes as long as torch's own (2 s of CPU, measured
with torch 2.13), and 90 MB of the 240 that a server has. Until a probe compiles something, a
stand-in has the two; at the first question for anything else the real module takes its place.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


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


def asks(request: Mapping[str, Any]) -> bool:
    """Whether a probe will import the compiler.

    DistributedDataParallel does, and the switch for deterministic algorithms, notebook 02's.
    """
    return request.get("world_size", 1) > 1 or request["probe"].startswith("seed_gaps")


def load_where_asked(request: Mapping[str, Any]) -> None:
    """Have the real one before a probe that will import it, and before its time is counted.

    A server then has it for all its forks.
    """
    module = sys.modules.get(NAME)
    if isinstance(module, _Later) and asks(request):
        module.__getattr__("__path__")  # any name that the stand-in lacks
        importlib.import_module("torch._inductor.config")
