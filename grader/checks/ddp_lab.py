"""The lab: a rank is killed, and the run goes on, on as many ranks or on fewer."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grader.checks import diagnose
from grader.checks.ddp_race_ranks import CLASSES, SGD, WIDTH, spoken, wrong_generators
from grader.client import Report
from grader.evidence import Evidence, Malformed, Tensors, differing
from grader.judge import Failed, Trial, Wrong, decides

BATCH = 16  # over all ranks
EPOCHS = 2


@dataclass
class Plan:
    """A run of two epochs, and the kill in the middle of one."""

    length: int
    kill: list[int]  # rank, step
    args: dict[str, Any]
    save_every: int = 2
    data: list[dict[str, np.ndarray]] = field(default_factory=list)

    @property
    def batches(self) -> int:
        """Steps in an epoch, on any number of ranks that divides the batch."""
        return math.ceil(self.length / BATCH)

    @property
    def saved(self) -> int:
        """The step of the last checkpoint before the kill: one comes after each epoch, too."""
        before = self.kill[1] - 1
        return max(before - before % self.save_every, before - before % self.batches)

    @property
    def told(self) -> str:
        rank, step = self.kill
        of = f"{self.length} samples in global batches of {BATCH}"
        return f"{of}; rank {rank} killed after step {step}"


def draw_plan(trial: Trial, ranks: int) -> Plan:
    batches = int(trial.rng.integers(4, 7))
    # A padded epoch, whose last batch is of two at least on each rank: batch norm needs them.
    length = batches * BATCH - int(trial.rng.integers(0, 8))
    step = batches * int(trial.rng.integers(0, EPOCHS)) + int(trial.rng.integers(3, batches))
    args = {
        "spec": SGD | {"optimizer": str(trial.rng.choice(["sgd", "adamw"]))},
        "seed": trial.draw_seed(),
        "sampler_seed": trial.draw_seed(),
        "batch_size": BATCH,
        "epochs": EPOCHS,
        "save_every": 2,
    }
    return Plan(length, [int(trial.rng.integers(ranks)), step], args)


class Lineage:
    """The two lives of a run: to the kill, and on from the file that it left."""

    def __init__(self, trial: Trial, plan: Plan, before: int, after: int) -> None:
        self.trial, self.plan = trial, plan
        first = self._segment(plan.args | {"kill": plan.kill}, before, {})
        died = first[plan.kill[0]]
        self.trails = [self._trail(first[0].files, rank) for rank in range(before)]
        for report in first:
            if "NotImplementedError" in report.details.get("bases", []):
                raise Failed(report)
        if died.outcome != "exited" or not any(
            "killed" in line for line in self.trails[plan.kill[0]]
        ):
            _require_no_error(first, "The first start")
            if died.outcome != "ok":
                raise Failed(died)
            ended = died.facts.get("ended")
            why = (
                f"before, it raised {str(ended)[:200]}" if ended else "the epochs were over before"
            )
            raise Wrong(f"{plan.told}; but it never came to that step: {why}.", "samples")
        if "run.pt" not in first[0].files:
            raise Wrong(
                f"{plan.told}: there is no checkpoint, though it was saved before.", "no_file"
            )
        # Drawn when the first life is over: nothing that it left can know them.
        again = plan.args | {"kill": None, "seed": self.trial.draw_seed()}
        again["sampler_seed"] = plan.args["sampler_seed"] + 7
        files = {"run.pt": first[0].files["run.pt"]}
        reports = self._segment(again, after, files)
        _require_no_error(reports, f"{plan.told}, started again on {after} ranks")
        self.ends = on_ranks_of(trial, reports)
        self.trails += [self._trail(reports[0].files, rank) for rank in range(after)]
        self.before, self.after = before, after
        self._require_resumed()

    def _segment(self, args: dict[str, Any], ranks: int, files: dict[str, bytes]) -> list[Report]:
        x = self.trial.rng.standard_normal((self.plan.length, WIDTH)).astype(np.float32)
        data = {"x": x, "y": self.trial.rng.integers(0, CLASSES, self.plan.length)}
        self.plan.data.append(data)
        return self.trial.attempt(
            "ddp_lab.segment",
            args,
            tensors=data,
            files=files,
            world_size=ranks,
            seconds=30,
            independent=args["kill"] is not None,  # torchrun would end all at the first
        )

    @staticmethod
    def _trail(files: dict[str, bytes], rank: int) -> list[dict[str, Any]]:
        try:
            text = files.get(f"trail-{rank}.jsonl", b"").decode()
            lines = [json.loads(line) for line in text.splitlines()]
            for line in lines:
                if "killed" not in line:
                    assert isinstance(line["step"], int) and isinstance(line["epoch"], int)
                    assert all(isinstance(row, int) for row in line["rows"])
                    float(line["loss"])
            return lines
        except (ValueError, AssertionError, KeyError, TypeError):
            raise Malformed("its trail cannot be read") from None

    def _require_resumed(self) -> None:
        for rank, evidence in enumerate(self.ends):
            fact = evidence.facts
            if not fact["returned"]["epoch"] or fact["step"] != self.plan.saved:
                came = (
                    f"went on after step {fact['step']}"
                    if fact["returned"]["epoch"]
                    else "began afresh"
                )
                raise Wrong(
                    f"{self.plan.told}; the last checkpoint is of step {self.plan.saved}. Started "
                    f"again, rank {rank} {came}.",
                    "start",
                )

    def rows(self) -> list[dict[tuple[int, int], list[int]]]:
        """For each life's each rank: the rows of each (epoch, step) that counts."""
        found = []
        for number, trail in enumerate(self.trails):
            first = number < self.before
            counts = [line for line in trail if "rows" in line]
            counts = [line for line in counts if (line["step"] <= self.plan.saved) == first]
            found.append({(line["epoch"], line["step"]): line["rows"] for line in counts})
        return found

    def require_samples(self) -> None:
        """Every epoch's samples, each once, give or take the padding; losses that are numbers."""
        self._require_steps()
        trained: dict[int, Counter[int]] = {epoch: Counter() for epoch in range(EPOCHS)}
        for lives in self.rows():
            for (epoch, _), rows in lives.items():
                trained.setdefault(epoch, Counter()).update(rows)
        for epoch, counter in trained.items():
            never = self.plan.length - len(counter)
            again = counter.total() - len(counter)
            ranks = (
                self.before if (epoch + 1) * self.plan.batches <= self.plan.saved else self.after
            )
            if never or again > ranks - 1:
                raise Wrong(
                    f"{self.plan.told}; started again on {self.after} ranks. Of epoch {epoch} "
                    f"{never} samples were never trained on, and {again} a second time.",
                    "samples",
                )
        for trail in self.trails:
            if not all(math.isfinite(line["loss"]) for line in trail if "loss" in line):
                raise Wrong(f"{self.plan.told}: a loss is no finite number.", "loss")

    def _require_steps(self) -> None:
        """Each life's steps follow one another, in their epochs; rows are rows of the data."""
        batches, saved = self.plan.batches, self.plan.saved
        for number, lives in enumerate(self.rows()):
            first = number < self.before
            steps = range(1, saved + 1) if first else range(saved + 1, EPOCHS * batches + 1)
            if list(lives) != [((step - 1) // batches, step) for step in steps]:
                which = "first" if first else "second"
                raise Wrong(
                    f"{self.plan.told}. The {which} start is to train steps {steps.start} to "
                    f"{steps.stop - 1}, {batches} an epoch; a rank trained others.",
                    "samples",
                )
            there = range(self.plan.length)
            if beyond := [row for rows in lives.values() for row in rows if row not in there]:
                raise Wrong(f"{self.plan.told}: there is no sample {beyond[0]}.", "samples")

    def truth(self, *, whole: bool) -> Tensors:
        """What ranks that nobody killed have at the checkpoint and, if ``whole``, at the end."""
        lives = self.rows()
        rows = []
        for rank in range(self.before):
            mine = lives[rank] | (lives[self.before + rank] if whole else {})
            rows.append([mine[key] for key in sorted(mine, key=lambda key: key[1])])
        first, second = self.plan.data
        tensors = first | {f"{name}2": array for name, array in second.items()}
        args = self.plan.args | {"rows": rows, "saved": self.plan.saved}
        return self.trial.trusted(
            "ddp_lab.uninterrupted", args, tensors=tensors, world_size=self.before, seconds=30
        ).tensors

    def require_loaded(self, truth: Tensors) -> None:
        for rank, evidence in enumerate(self.ends):
            # Batch norm's statistics differ by rank until the next step: those that count are
            # rank 0's, which are in the file.
            want = truth.under("rank0")
            found = diagnose.weights(want, evidence.tensors) or diagnose.optimizer(
                want, evidence.tensors
            )
            if found:
                raise Wrong(
                    f"{self.plan.told}; on rank {rank} after resume(…): {found[0]}", "loaded"
                )


def _require_no_error(reports: list[Report], case: str) -> None:
    for rank, report in enumerate(reports):
        if report.outcome == "raised":
            raise Failed(report)
        raised = report.facts.get("raised") if report.outcome == "ok" else None
        if raised:
            text = str((report.facts.get("texts") or [""])[0]).splitlines()[0][:200]
            raise Wrong(f"{case}: resume(…) raised on rank {rank}: {text}", "start")


def on_ranks_of(trial: Trial, reports: list[Report]) -> list[Evidence]:
    """The evidence of each rank. Raises Failed for one that brought none."""
    for report in reports:
        if report.outcome != "ok":
            raise Failed(report)
    return [trial.evidence(report) for report in reports]


@decides("ddp_lab.killed_rank")
def killed_rank(trial: Trial) -> str:
    plan = draw_plan(trial, 2)
    lineage = Lineage(trial, plan, 2, 2)
    lineage.require_samples()
    _require_order(trial, plan, lineage)
    truth = lineage.truth(whole=True)
    lineage.require_loaded(truth)
    for rank, evidence in enumerate(lineage.ends):
        want, got = truth.under(f"rank{rank}/end"), evidence.tensors.under("end")
        if bad := wrong_generators(want.under("draws"), got.under("draws")):
            raise Wrong(
                f"{plan.told}; all was loaded and trained on the right samples, but rank {rank}'s "
                f"{spoken(bad)} generator is not where it would be uninterrupted.",
                "drawn",
            )
        if differing(want.under("model"), got.under("model")):
            raise Wrong(
                f"{plan.told}; everything came back, and at the end rank {rank} has other weights.",
                "drawn",
            )
    steps = EPOCHS * plan.batches
    return (
        f"{plan.told}, started again from step {plan.saved}: after {steps} steps the weights are "
        "those of a run that nobody killed, on both ranks."
    )


def _require_order(trial: Trial, plan: Plan, lineage: Lineage) -> None:
    """What the ranks trained on together, step by step, is the permutation's next batch."""
    args = {"length": plan.length, **plan.args}
    orders = trial.probe("ddp_lab.orders", args).tensors
    for step in range(EPOCHS * plan.batches):
        epoch, batch = divmod(step, plan.batches)
        order = orders.get(f"{epoch}")
        order = [] if order is None else order.array().tolist()
        want = set(order[batch * BATCH : (batch + 1) * BATCH])
        came = {row for life in lineage.rows() for row in life.get((epoch, step + 1), [])}
        # The last batch's padding may be any samples of the epoch.
        if not want <= came or (batch < plan.batches - 1 and want != came):
            raise Wrong(
                f"{plan.told}. In step {step + 1} (epoch {epoch}) the ranks did not train on the "
                f"next {len(want)} samples of the epoch's order.",
                "samples",
            )


@decides("ddp_lab.fewer_ranks")
def fewer_ranks(trial: Trial) -> str:
    plan = draw_plan(trial, 4)
    lineage = Lineage(trial, plan, 4, 2)
    lineage.require_samples()
    lineage.require_loaded(lineage.truth(whole=False))
    if not lineage.ends[0].facts["warnings"]:
        raise Wrong(
            f"{plan.told}, on 4 ranks; gone on with 2: rank 0 was not warned that this cannot be "
            "bit-identical.",
            "no_warning",
        )
    return (
        f"{plan.told}, on 4 ranks; two went on from step {plan.saved}: every sample of each epoch "
        "was trained on, and none again but padding."
    )
