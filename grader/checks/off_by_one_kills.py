"""A run that is killed several times and started again each time, and what it must come to."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from grader.checks import diagnose
from grader.checks.off_by_one import numbers, require_best
from grader.checks.off_by_one_plans import PER_STEP, Plan
from grader.client import Report
from grader.evidence import Evidence, Malformed, Raw, Tensors, differing
from grader.judge import Failed, Trial, Wrong

WIDTH, CLASSES = 6, 4


def _draw_data(trial: Trial, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    x = trial.rng.standard_normal((plan.length, WIDTH)).astype(np.float32)
    return x, trial.rng.integers(0, CLASSES, plan.length)


class Lineage:
    """The processes of one run, one after another, each started on what the last one left."""

    def __init__(self, trial: Trial, plan: Plan) -> None:
        self.trial, self.plan = trial, plan
        self.reports: list[Report] = []
        self.end: Evidence | None = None
        files: dict[str, bytes] = {}
        begin = 0
        for kill in [*plan.kills, None]:
            # Drawn when the process before is dead: nothing that it left can know them.
            x, y = _draw_data(trial, plan)
            plan.data.append((x, y))
            args = {
                "spec": plan.spec,
                # A script seeds itself alike at each start; where a file is, it must not matter.
                "seed": plan.other_seed if begin else plan.seed,
                "other": bool(begin),
                "sampler_seed": plan.sampler_seed + (7 if begin else 0),
                "batch_size": plan.batch_size,
                "epochs": plan.epochs,
                "save_every": plan.save_every,
                "per_step": plan.schedule in PER_STEP,
                "steps_before": plan.at(begin)[2],
                "kill_after": kill - begin if kill else None,
            }
            report = trial.attempt(
                "off_by_one.segment", args, tensors={"x": x, "y": y}, files=files
            )[0]
            killed = "exited" in report.outcome and '"killed"' in self._text(report)
            if not killed and report.outcome != "ok":
                raise Failed(report)
            self.reports.append(report)
            if killed != (kill is not None):
                break  # it ended before its kill: its trail says why
            if kill is None:
                self.end = trial.evidence(report)
                break
            files = {n: d for n, d in report.files.items() if n == "run.pt"}
            begin = plan.saved(kill)

    @staticmethod
    def _text(report: Report) -> str:
        return report.files.get("trail.jsonl", b"").decode(errors="replace")

    def trail(self, process: int) -> list[dict[str, Any]]:
        """What the process wrote down: how it found itself, then each batch and epoch."""
        try:
            lines = [json.loads(line) for line in self._text(self.reports[process]).splitlines()]
            first, *rest = lines
            batches = [line for line in rest if "rows" in line]
            assert isinstance(first["returned"], str) and len(first["fields"]) == 4
            assert all({"epoch", "rows", "lr"} <= set(line) for line in batches)
        except (ValueError, AssertionError, KeyError, TypeError):
            raise Malformed("its trail cannot be read") from None
        return [first, *batches]

    def require_same(self, truth: Evidence, name: str) -> None:
        """Raise Wrong, with the likeliest cause, unless the run ended as if never killed."""
        facts, tensors = truth.facts[name], truth.tensors.under(name)
        for process in range(len(self.reports)):
            if process:
                self._require_resumed(process, facts)
            self._require_samples(process)
        if self.end is None:
            raise Wrong(f"{self.told()}\nThe run ended before its last step.", "short_run")
        got = self.end.tensors
        bad = differing(tensors.under("end"), got.under("end"))
        if bad:
            detail, cause = self._diagnose(tensors, facts)
            raise Wrong(f"{self.told()}\n{detail}", cause)
        require_best(
            f"{self.told()} At the end",
            float.fromhex(facts["best"]),
            got.get("end/best"),
            "best_lost",
        )
        completed = [self.plan.epochs - 1, 0, self.plan.epochs * self.plan.batches]
        if (found := numbers(self.end, "end/fields", 4))[:3] != completed:
            raise Wrong(
                f"{self.told()}\nAt the end epoch, batch, step are to be {completed}, and are "
                f"{found[:3]}.",
                "counting",
            )

    def told(self) -> str:
        plan = self.plan
        kills = "; ".join(plan.where(kill) for kill in plan.kills)
        every = "every step" if plan.save_every == 1 else f"every {plan.save_every} steps"
        return (
            f"{plan.epochs} epochs of {plan.length} samples, {plan.optimizer}, schedule "
            f"{plan.schedule}, saved {every} and after each epoch. Killed in {kills}."
        )

    def _require_resumed(self, process: int, facts: dict[str, Any]) -> None:
        begin = self.plan.starts[process - 1]
        first = self.trail(process)[0]
        returned, came = first["returned"], first["fields"]
        want = "True" if begin else "False"
        there = "a checkpoint is there" if begin else "there is no file yet"
        if returned != want:
            raise Wrong(
                f"{self.told()}\nStart {process + 1}: {there}, and resume(…) returned {returned} "
                f"instead of {want}.",
                "returns_true" if begin else "returns_false",
            )
        completed, batch, step = self.plan.at(begin)
        wanted = [completed - 1, batch, step, completed]
        if came == wanted:
            return
        cause = "counters_lost"
        if came == [-1, 0, 0, 0] or (came[0] == -1 and completed):
            cause = "progress_lost"
        elif came[0] == wanted[0] + 1:
            cause = "epoch_plus_one"
        elif came[0] == wanted[0] and came[3] != came[0] + 1:
            cause = "next_epoch_mid" if batch else "next_epoch"
        elif came[:1] == wanted[:1] and batch and came[1] == 0:
            cause = "epoch_start_only"
        raise Wrong(
            f"{self.told()}\nStart {process + 1}, after resume(…): epoch, batch, step, next_epoch "
            f"are to be {wanted}, and are {came}.",
            cause,
        )

    def _require_samples(self, process: int) -> None:
        """What this process trained on must be what the order says, from where it began."""
        plan, order = self.plan, self.plan.order
        begin = plan.starts[process - 1] if process else 0
        trained = self.trail(process)[1:]
        event, number = begin, 0
        end = plan.kills[process] if process < len(plan.kills) else plan.events
        while event < end:
            completed, batch, _ = plan.at(event)
            event += 1
            if batch == plan.batches:
                continue  # the epoch's completion
            first = batch * plan.batch_size
            want = order[completed][first : first + plan.batch_size].tolist()
            came = trained[number] if number < len(trained) else {"epoch": None, "rows": []}
            number += 1
            if came["epoch"] == completed and came["rows"] == want:
                continue
            raise Wrong(*self._samples(process, event - 1, came, trained))
        if number < len(trained):
            raise Wrong(*self._samples(process, event - 1, trained[number], trained))

    def _samples(
        self, process: int, event: int, came: dict[str, Any], trained: list[dict[str, Any]]
    ) -> tuple[str, str]:
        plan = self.plan
        begin = plan.starts[process - 1] if process else 0
        completed, batch, _ = plan.at(begin)
        before = set(plan.order[completed][: batch * plan.batch_size].tolist())
        after = [i for line in trained if line["epoch"] == completed for i in line["rows"]]
        again = len([i for i in after if i in before or after.count(i) > 1])
        never = len(set(range(plan.length)) - before - set(after))
        came_to = "nothing" if came["epoch"] is None else f"epoch {came['epoch']}"
        detail = (
            f"Start {process + 1} goes on in {plan.where(begin)}. First difference: in "
            f"{plan.where(event)}, it trained on {came_to}"
            + (f", samples {came['rows']}" if came["rows"] else "")
            + f", instead of {self._wanted(event)}. In that epoch {again} samples were trained "
            f"again{f', and {never} never' if process == len(plan.kills) else ''}."
        )
        return f"{self.told()}\n{detail}", "sampler_lost" if batch else "samples"

    def _wanted(self, event: int) -> str:
        completed, batch, _ = self.plan.at(event)
        if completed >= self.plan.epochs or batch == self.plan.batches:
            return "nothing"
        first = batch * self.plan.batch_size
        rows = self.plan.order[completed][first : first + self.plan.batch_size]
        return f"epoch {completed}, samples {rows.tolist()}"

    def _diagnose(self, truth: Tensors, facts: dict[str, Any]) -> tuple[str, str]:
        """The first start at which something is another: what, and the likeliest cause."""
        right = ""  # the last start that was restored rightly
        for process in range(1, len(self.reports)):
            begin = self.plan.starts[process - 1]
            if not begin:
                continue
            here = f"Start {process + 1} goes on in {self.plan.where(begin)}. "
            found = self._restored(process, truth, facts, here)
            if found and right:
                break  # that one was right; what it then trained is another
            if found:
                return here + found[0], found[1]
            right = here
            lrs = [line["lr"] for line in self.trail(process)[1:]]
            step = self.plan.at(begin)[2]
            for number, lr in enumerate(lrs):
                if lr != facts["lrs"][step + number]:
                    return (
                        f"{here}Its step {number + 1} used the learning rate {lr:.4g}; "
                        f"uninterrupted, it is {facts['lrs'][step + number]:.4g}.",
                        "schedule",
                    )
        want, got = truth["end/lr"], self.end.tensors.get("end/lr")
        if got != want and not differing(
            truth.under("end/model"), self.end.tensors.under("end/model")
        ):
            return (
                f"{right}At the end the learning rate is {_first(got)}, and is to be "
                f"{_first(want)}.",
                "schedule",
            )
        found = diagnose.generators(truth, self.end.tensors)
        return (
            f"{right}Weights, optimizer, samples and rates were right, and it trained on to other "
            "weights: what was drawn (dropout, noise) differs.",
            found[1] if found else "rng_all",
        )

    def _restored(
        self, process: int, truth: Tensors, facts: dict[str, Any], here: str
    ) -> tuple[str, str] | None:
        """What a start did not get back. None: it got everything that can be seen."""
        want = truth.under(str(process))
        try:
            got = Tensors.parse(self.reports[process].files.get("loaded.safetensors"))
        except ValueError as error:
            raise Malformed(str(error)) from None
        found = diagnose.weights(want, got) or self._rate(want, got)
        found = found or diagnose.optimizer(want, got)
        if not found:
            best = float.fromhex(facts["bests"][process - 1])
            done = f"{self.told()}\n{here}After resume(…)"
            require_best(done, best, got.get("best"), "best_lost")
        return found

    @staticmethod
    def _rate(want: Tensors, got: Tensors) -> tuple[str, str] | None:
        rate, came = want["loaded/lr"], got.get("loaded/lr")
        if came == rate:
            return None
        return f"After resume(…) the learning rate is {_first(came)}; it was {_first(rate)}.", (
            "learning_rate"
        )


def _first(rates: Raw | None) -> str:
    return "none" if rates is None else f"{float(rates.array()[0]):.4g}"


def run_all(trial: Trial, plans: dict[str, Plan]) -> int:
    """Kill and resume each run; raise Wrong at the first that is not the uninterrupted one.

    Returns the number of optimizer steps that were compared.
    """
    told = {n: [plan.length, plan.sampler_seed, plan.epochs] for n, plan in plans.items()}
    orders = trial.probe("off_by_one.orders", {"runs": told})
    tensors: dict[str, np.ndarray] = {}
    lineages: dict[str, Lineage] = {}
    for name, plan in plans.items():
        plan.order = np.array(numbers(orders, name, plan.epochs, plan.length))
        for row in plan.order:
            if sorted(row.tolist()) != list(range(plan.length)):
                raise Wrong(
                    "An epoch of the sampler is no permutation of its samples.", "no_permutation"
                )
        lineages[name] = Lineage(trial, plan)
        tensors[f"{name}/order"] = plan.order
        for number, (x, y) in enumerate(plan.data):
            tensors |= {f"{name}/x{number}": x, f"{name}/y{number}": y}
    runs = {}
    for name, plan in plans.items():
        reached = len(plan.data) - 1  # fewer processes than planned, if one ended too early
        runs[name] = {
            "spec": plan.spec,
            "seed": plan.seed,
            "epochs": plan.epochs,
            "batch_size": plan.batch_size,
            "per_step": plan.schedule in PER_STEP,
            "starts": plan.starts[:reached],
        }
    truth = trial.trusted("off_by_one.uninterrupted", {"runs": runs}, tensors=tensors)
    for name, lineage in lineages.items():
        lineage.require_same(truth, name)
    return sum(plan.epochs * plan.batches for plan in plans.values())
