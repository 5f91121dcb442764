"""Run a probe in an interpreter of its own, with hashes of its own.

Forked processes share their parent's string hashes; only a new interpreter has others."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from grader import child
from grader.child import Context, probe

REQUEST, REPORT = Path("fresh-request.json"), Path("fresh-report")


@probe
def interpreter(context: Context):
    """Run the probe named in the arguments so; its report is left as a file for the judge."""
    request = {
        "probe": context.args["probe"],
        "args": context.args["args"],
        "savepoint": context.package,
        "cwd": str(Path.cwd()),
    }
    REQUEST.write_text(json.dumps(request), encoding="utf-8")
    context.stage("importing torch and your package in a new interpreter")
    finished = subprocess.run(
        [sys.executable, "-B", "-c", f"from {__name__} import main; main()"],
        env={**os.environ, "PYTHONHASHSEED": str(context.args["hash_seed"])},
        check=False,
    )
    return {"exit_code": finished.returncode}


def main() -> None:
    """In the new interpreter: what the warm server's child would do, without the warmth."""
    import torch

    torch.set_num_threads(1)
    request = json.loads(REQUEST.read_text(encoding="utf-8"))
    importlib.import_module(f"grader.probes.{request['probe'].split('.')[0]}")
    with REPORT.open("wb") as out:
        child.run(request, {}, out)
