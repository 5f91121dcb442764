"""Incident 03: evidence from several ranks at once."""

from __future__ import annotations

from typing import Any

import numpy as np

from grader.client import GraderFault, Report
from grader.evidence import Evidence, Tensors, differing, names
from grader.judge import Failed, Trial, Wrong

BATCH, WIDTH, CLASSES = 8, 6, 4
JOINING = "joining the process group"  # a probe's stage before it calls the package
PATIENT = 4.0  # a collective waits 5 s in the probes: what took longer has waited in vain
GENERATORS = ("python", "numpy", "torch")
SGD = {"optimizer": "sgd", "lr": 0.05}
SPOKEN = {"python": "Python's", "numpy": "NumPy's", "torch": "torch's"}


def draw_told(trial: Trial) -> dict[str, Any]:
    """The epoch and loss that a save is told, and the seed of the run."""
    return {
        "spec": SGD,
        "seed": trial.draw_seed(),
        "epoch": int(trial.rng.integers(2, 40)),
        "loss": float(trial.rng.uniform(0.1, 2.0)).hex(),
    }


def draw_batches(trial: Trial, ranks: int, steps: int, suffix: str = "") -> dict[str, np.ndarray]:
    """``x<suffix>`` of shape (ranks, steps, 8, 6), ``y<suffix>`` of shape (ranks, steps, 8)."""
    x = trial.rng.standard_normal((ranks, steps, BATCH, WIDTH)).astype(np.float32)
    return {f"x{suffix}": x, f"y{suffix}": trial.rng.integers(0, CLASSES, (ranks, steps, BATCH))}


def on_ranks(
    trial: Trial, probe: str, args: dict[str, Any], ranks: int, **given: Any
) -> list[Evidence]:
    """The evidence of each rank. Raises Failed, or Wrong if one ended or never came back."""
    reports = trial.attempt(probe, args, world_size=ranks, **{"seconds": 25, **given})
    for report in sorted(reports, key=lambda report: report.outcome != "raised"):
        if report.outcome == "ok":
            continue
        if report.stage == JOINING:  # no code of the package has run yet
            raise GraderFault(f"rank {reports.index(report)} did not join: {report.details}")
        if report.outcome == "raised" or "(" not in report.stage:
            raise Failed(report)
        raise Wrong(_ended(reports.index(report), ranks, report), "out_of_step")
    return [trial.evidence(report) for report in reports]


def _ended(rank: int, ranks: int, report: Report) -> str:
    how = "never came back" if report.outcome == "timed out" else "ended the process"
    return f"On {ranks} ranks: {report.stage} {how} on rank {rank}."


def require_returned(
    ranks: list[Evidence], call: str, cause: str = "raises", *, key: str | None = None
) -> None:
    """Raise Wrong unless the call returned on every rank, without waiting in vain."""
    facts = [evidence.facts[key] if key else evidence.facts for evidence in ranks]
    slow = [rank for rank, fact in enumerate(facts) if fact["seconds"] > PATIENT]
    waited = max(fact["seconds"] for fact in facts)
    for rank, fact in enumerate(facts):
        if not fact["raised"] and not slow:
            continue
        where = f"On {len(ranks)} ranks" if len(ranks) > 1 else "In a single process"
        if slow:
            raise Wrong(
                f"{where}: {call} made {ranks_told(slow)} wait {waited:.0f} s "
                "for others who never came (the limit here; torch's default is 30 min).",
                "out_of_step",
            )
        # What torch says next of a file that it refuses is advice to open it unsafely.
        text = fact["texts"][0].splitlines()[0].partition(" This file can still")[0][:300]
        raise Wrong(f"{where}: {call} raised on rank {rank}: {text}", cause)


def ranks_told(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


def inspect(trial: Trial, file: bytes) -> Evidence:
    return trial.trusted("ddp_race.inspect", {"path": "run.pt"}, files={"run.pt": file})


def require_file(evidence: Evidence, name: str = "run.pt", cause: str = "no_file") -> bytes:
    if name not in evidence.files:
        raise Wrong(
            f"save_checkpoint_ddp({name!r}, …) returned, and there is no such file; in the "
            f"directory: {names(evidence.left()) or 'nothing'}.",
            cause,
        )
    return evidence.files[name]


def require_contents(
    inside: Evidence, truth: Tensors, told: dict[str, Any], scheduler: bool
) -> None:
    """The keys and the parts that any save promises; ``truth`` is rank 0's."""
    facts = inside.facts
    if not facts["opens"]:
        blocked = facts["blocked"]
        why = f"Blocked: {names(blocked)}" if blocked else facts["error"]
        raise Wrong(f"torch.load, with its default, refuses the file. {why}.", "unreadable")
    wanted = {"epoch", "loss", "model_state_dict", "optimizer_state_dict", "rng_state"}
    wanted |= {"scheduler_state_dict", "ema_state_dict"}
    if absent := sorted(wanted - set(facts["keys"])):
        cause = "extra" if absent == ["ema_state_dict"] else "keys"
        raise Wrong(f"The file lacks {names(absent)}.", cause)
    none = [key for key in facts["absent"] if key in wanted - {"scheduler_state_dict"}]
    if scheduler and "scheduler_state_dict" in facts["absent"]:
        none.append("scheduler_state_dict")
    if none:
        raise Wrong(f"In the file {names(none)} is None.", "keys")
    if facts["epoch"] != told["epoch"] or facts["loss"] != told["loss"]:
        raise Wrong(
            f"Saved with epoch={told['epoch']}, loss={float.fromhex(told['loss'])!r}; the file has "
            f"{facts['epoch']}, {facts['loss']}.",
            "keys",
        )
    require_model(inside, truth)
    held = {tensor.data for tensor in inside.tensors.under("optimizer").values()}
    momentum = truth.under("optimizer")
    if any(t.data not in held for n, t in momentum.items() if n.endswith("momentum_buffer")):
        raise Wrong("The file does not hold the optimizer's momentum.", "keys")


def require_model(inside: Evidence, truth: Tensors) -> None:
    model = truth.under("model")
    listed = inside.facts.get("names", [])
    if set(listed) != set(model):
        extra, lost = sorted(set(listed) - set(model)), sorted(set(model) - set(listed))
        prefixed = listed and all(name.startswith("module.") for name in listed)
        raise Wrong(
            'The names under "model_state_dict" are not the model\'s own. '
            + (f"In the file: {names(extra)}. " if extra else "")
            + (f"Not in it: {names(lost)}." if lost else ""),
            "prefix" if prefixed and not {"module.weight"} >= set(listed) else "names",
        )
    if bad := differing(model, inside.tensors.under("model")):
        raise Wrong(f'Under "model_state_dict" {names(bad)} is another tensor.', "weights")
    if differing(model, inside.tensors.under("loaded")):
        raise Wrong(
            "The model's state dict has lost its _metadata: a layer that has changed its format "
            "takes what it loads for an old file.",
            "metadata",
        )


def wrong_generators(truth: Tensors, got: Tensors) -> list[str]:
    """The generators that draw something else than they should; all, where nothing came."""
    return [name for name in GENERATORS if got.get(name) is None or got[name] != truth[name]]


def spoken(generators: list[str]) -> str:
    return " and ".join(SPOKEN[name] for name in generators)
