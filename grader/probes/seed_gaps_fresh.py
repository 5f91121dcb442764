"""Run a probe in an interpreter of its own, with hashes of its own.

Forked processes share their parent's string hashes; only a new interpreter has others.

    python -m grader.probes.seed_gaps_fresh REQUEST.json REPORT
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from grader import child
from grader.child import Context, probe

REQUEST, REPORT = "fresh-request.json", "fresh-report"


@probe
def interpreter(context: Context):
    """Run the probe named in the arguments so; its report is left as a file for the judge."""
    request = {
        "probe": context.args["probe"],
        "args": context.args["args"],
        "savepoint": context.package,
        "cwd": str(Path.cwd()),
    }
    Path(REQUEST).write_text(json.dumps(request), encoding="utf-8")
    context.stage("importing torch and your package in a new interpreter")
    finished = subprocess.run(
        [sys.executable, "-B", "-m", __name__, REQUEST, REPORT],
        env={**os.environ, "PYTHONHASHSEED": str(context.args["hash_seed"])},
        check=False,
    )
    return {"exit_code": finished.returncode}


def main(request: str, report: str) -> None:
    import torch

    torch.set_num_threads(1)
    told = json.loads(Path(request).read_text(encoding="utf-8"))
    importlib.import_module(f"grader.probes.{told['probe'].split('.')[0]}")
    with Path(report).open("wb") as out:
        child.run(told, {}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
