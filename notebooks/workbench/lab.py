"""Drives the lab's scripts (notebook 07): starts them under torchrun, reads what they left.

lab = Lab(scripts, package, runs)
run = lab.train("a", ranks=2)     # None, with the reason printed, where it did not end well
run.weights, run.starts
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.launch import Run, python, torchrun

SECONDS = 300  # the limit of each start; a laptop takes 5 to 15


@dataclass(frozen=True)
class Trained:
    """What ``train.py`` left in its directory, of one start or of several."""

    directory: Path
    how: str
    output: str

    @property
    def result(self) -> dict[str, Any]:
        """Hash of the weights, accuracy and steps; empty for a run that is not at its end."""
        path = self.directory / "result.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def weights(self) -> str:
        return self.result.get("weights", "–")

    def log(self, rank: int) -> list[dict[str, Any]]:
        path = self.directory / f"log-{rank}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Each start as rank 0 saw it: resumed or not, at which step, on how many ranks; and
        ``last``, the last step that it trained."""
        found: list[dict[str, Any]] = []
        for line in self.log(0):
            if "start" in line:
                found.append({**line, "last": line["step"]})
            elif "rows" in line:
                found[-1]["last"] = line["step"]
        return found

    def samples(self, epoch: int) -> Counter[int]:
        """How often each sample was trained on in this epoch, over all ranks, by the steps that
        count: of a step that was lost and trained again, the last time."""
        ranks_at: dict[int, int] = {}
        for start in self.starts:
            ranks_at |= dict.fromkeys(range(start["step"] + 1, start["last"] + 1), start["ranks"])
        trained: Counter[int] = Counter()
        for rank in range(max(ranks_at.values())):
            rows = {line["step"]: line for line in self.log(rank) if "rows" in line}
            for step, line in rows.items():
                if line["epoch"] == epoch and rank < ranks_at[step]:
                    trained.update(line["rows"])
        return trained


class Lab:
    """The scripts, the package that they use, and what hardware there is."""

    def __init__(self, scripts: Path, package: Path, runs: Path, gpus: int = 0) -> None:
        """``package``: the directory that holds ``savepoint``. ``gpus``: how many to use."""
        self.scripts, self.package, self.runs, self.gpus = scripts, package, runs, gpus
        self.unfinished = ""  # why the package cannot run yet

    def device(self, ranks: int) -> str:
        """A GPU for each rank, or the CPU for all."""
        return "cuda" if self.gpus >= ranks else "cpu"

    def told(self, ranks: int) -> str:
        backend = "NCCL on GPUs" if self.device(ranks) == "cuda" else "gloo on the CPU"
        return f"{ranks} rank{'s' * (ranks > 1)}, {backend}"

    def settings(self) -> list[int]:
        """The numbers of ranks that the two-rank stations use here: where there is one GPU, a rank
        alone on it, and two on the CPU beside it."""
        return [1, 2] if self.gpus == 1 else [2]

    def train(
        self, name: str, *options: str, ranks: int, max_restarts: int = 0, fails: bool = False
    ) -> Trained | None:
        """Run train.py in a directory of this name. ``fails``: it is meant not to reach its end."""
        run = self.start(
            "train.py",
            *(str(self.runs / name), "--device", self.device(ranks), *options),
            ranks=ranks,
            max_restarts=max_restarts,
            fails=fails,
        )
        return run and Trained(self.runs / name, run.how, run.output)

    def start(
        self,
        script: str,
        *arguments: str,
        ranks: int = 0,
        max_restarts: int = 0,
        fails: bool = False,
    ) -> Run | None:
        """One of the scripts under torchrun, or with ``ranks=0`` in a process of its own."""
        if self.unfinished:
            print(self.unfinished)
            return None
        env = {"PYTHONPATH": str(self.package), "PYTHONDONTWRITEBYTECODE": "1"}
        command = (str(self.scripts / script), *arguments)
        if ranks:
            run = torchrun(
                *command, nproc=ranks, max_restarts=max_restarts, timeout=SECONDS, env=env
            )
        else:
            run = python(*command, timeout=SECONDS, env=env)
        if run.returncode == 0 or (fails and run.returncode is not None):
            return run
        said = [line for line in run.output.splitlines() if "Error" in line] or [run.output[-300:]]
        reason = said[0].partition("]: ")[2] or said[0]
        if "NotImplementedError" in reason or "No module named 'savepoint" in reason:
            self.unfinished = f"Not yet: {reason.partition(': ')[2] or reason}"
            print(self.unfinished)
        else:
            print(f"{script} {run.how}: {reason}")
        return None
