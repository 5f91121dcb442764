"""Several runs one after the other in one process, as one script may make them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from grader.child import PROBES, Context, probe


@probe
def runs(context: Context):
    """Do each [probe, args] of ``args["each"]``, in a directory of its own.

    Run n has the tensors and files under ``n/``; what it returns goes there too.
    """
    home = Path.cwd()
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    strayed = None
    for number, (name, args) in enumerate(context.args["each"]):
        place = home / str(number)
        place.mkdir(exist_ok=True)
        os.chdir(place)
        result = PROBES[name](context.part(str(number), args))
        found, made = result if isinstance(result, tuple) else (result, {})
        facts[str(number)] = found or {}
        tensors |= {f"{number}/{key}": tensor for key, tensor in made.items()}
        strayed = strayed or (Path.cwd() if Path.cwd() != place else None)
    os.chdir(strayed or home)  # where it has been left is told of the process, at its end
    return facts, tensors
