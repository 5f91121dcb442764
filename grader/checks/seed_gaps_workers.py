"""Incident 02: what real workers draw: each its own, in each epoch anew, in each run the same."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from grader.checks.seed_gaps import told_names
from grader.checks.seed_gaps_fresh import SECONDS, fresh
from grader.evidence import Evidence, Tensors, differing, names
from grader.judge import Failed, Trial, Wrong, decides

Stream = tuple[float, ...]


def fork_or_spawn() -> str:
    """Fork where the grader itself forks."""
    return "fork" if sys.platform == "linux" else "spawn"


def beside_workers(trial: Trial, name: str, args: dict[str, Any]) -> Evidence:
    """A probe that starts workers; what a worker raised is told as such."""
    try:
        return trial.probe(name, args, seconds=SECONDS)
    except Failed as failed:
        _explain(failed)
        raise


def _explain(failed: Failed) -> None:
    details, text = failed.report.details, str(failed.report.details.get("text", ""))
    if "NotImplementedError" in (details.get("bases") or []):
        return
    if "in DataLoader worker process" in text:
        last = [line for line in text.splitlines() if line.strip()][-1]
        raise Wrong(f"During {failed.report.stage}: a worker raised {last[:300]}", "worker_raised")
    if "pickle" in text.lower() or "local object" in text:
        raise Wrong(f"During {failed.report.stage}: {text[:300]}", "not_picklable")


def streams(columns: Tensors, generator: str) -> dict[int, Stream]:
    """What each worker drew from a generator in one epoch, in its order."""
    worker, drawn = columns["worker"].array(), columns[generator].array()
    return {int(w): tuple(drawn[worker == w].tolist()) for w in np.unique(worker)}


def require_apart(
    came: Tensors, said: str, epochs: int, generators: list[str], suffix: str = ""
) -> None:
    """Raise Wrong if two workers, or two epochs of one, drew the same."""
    for generator in generators:
        seen: dict[Stream, tuple[int, int]] = {}
        for epoch in range(epochs):
            for worker, stream in streams(came.under(str(epoch)), generator).items():
                if stream[:2] not in seen:
                    seen[stream[:2]] = (epoch, worker)
                    continue
                before, other = seen[stream[:2]]
                what = "workers" if before == epoch else "epochs"
                where = (
                    f"workers {other} and {worker}, epoch {epoch}"
                    if before == epoch
                    else f"worker {other} in epoch {before} and worker {worker} in epoch {epoch}"
                )
                raise Wrong(
                    f"{said}. From {generator}, {where} drew the same: {stream[0]:.6f}, "
                    f"{stream[1]:.6f}, …",
                    f"{what}_alike{suffix}",
                )


GLOBALS = ["random", "np.random", "torch"]


@decides("seed_gaps.workers")
def workers(trial: Trial) -> str:
    batch = int(trial.rng.integers(2, 5))
    args = {"seed": trial.draw_seed(), "length": batch * 6 - 1, "batch_size": batch}
    forks = {"fork": 2, "fork, persistent": 2}  # persistent: started in the first epoch, and kept
    quick = {"none": 2} | (forks if fork_or_spawn() == "fork" else {})
    here = beside_workers(trial, "seed_gaps_workers.workers", args | {"methods": quick}).tensors
    # Spawned workers import everything anew, which takes its time: one epoch of them.
    spawn = beside_workers(
        trial, "seed_gaps_workers.workers", args | {"methods": {"spawn": 1}}
    ).tensors
    loader = f"seeded_loader(dataset, seed={args['seed']}, num_workers=2)"
    for method in [m for m in (*forks, "spawn") if m in {*quick, "spawn"}]:
        came = spawn.under("spawn") if method == "spawn" else here.under(method)
        if {int(w) for w in came["0/worker"].array()} != {0, 1}:
            raise Wrong(f"{loader}, {method}: not both of the workers worked.", "handed_on")
        for epoch in range(1 if method == "spawn" else 2):
            if came[f"{epoch}/index"] != here[f"none/{epoch}/index"]:
                raise Wrong(
                    f"{loader}, {method}, epoch {epoch}: another order than with num_workers=0.",
                    "order_of_workers",
                )
        require_apart(came, f"{loader}, {method}", 1 if method == "spawn" else 2, GLOBALS)
    again = {"methods": {m: n for m, n in quick.items() if m == "fork"} or {"spawn": 1}}
    other = beside_workers(trial, "seed_gaps_workers.workers", args | again).tensors
    both = here if fork_or_spawn() == "fork" else spawn
    bad = differing({name: both[name] for name in other}, other)
    if bad:
        generator = bad[0].rsplit("/", 1)[1]
        raise Wrong(f"{loader}, in two runs: the workers drew otherwise from {generator}.", "runs")
    _require_seed_worker(trial, args)
    return "Two workers, forked and spawned: the same order as without, and each draws its own."


def _require_seed_worker(trial: Trial, args: dict[str, Any]) -> None:
    """Where seed_worker keeps generator objects apart, seeded_loader has to."""
    told = args | {"method": fork_or_spawn(), "object_seed": trial.draw_seed()}
    came = beside_workers(trial, "seed_gaps_workers.uses_seed_worker", told).tensors
    for generator in ("np.random.Generator", "random.Random", "torch.Generator"):
        if f"plain/0/{generator}" not in came:
            continue
        plain = streams(came.under("plain/0"), generator)
        seeded = streams(came.under("seeded/0"), generator)
        if plain[0][:2] != plain[1][:2] and seeded[0][:2] == seeded[1][:2]:
            raise Wrong(
                f"A dataset with a {generator}: under DataLoader(…, worker_init_fn=seed_worker) "
                "two workers draw different numbers, under seeded_loader the same.",
                "init_forgotten",
            )


PLACES = {
    "dataset": "a dataset that carries them",
    "Subset": "a Subset of a dataset that carries them",
    "wrapper": "a wrapper with its own, around a Subset of a Subset of a dataset with its own",
}


@decides("seed_gaps.worker_objects")
def worker_objects(trial: Trial) -> str:
    start = {"start": trial.draw_seed()}
    came = trial.probe("seed_gaps.outside_a_worker", start).tensors
    if bad := differing(trial.trusted("seed_gaps.two_draws", start).tensors, came):
        moved = [name.rsplit("/", 1)[1] for name in bad]
        raise Wrong(
            f"seed_worker(0) in the main process: {told_names(moved)} had moved.", "outside"
        )
    method = fork_or_spawn()
    batch = int(trial.rng.integers(2, 5))
    args = {
        "seed": trial.draw_seed(),
        "object_seed": trial.draw_seed(),
        "length": batch * 6 - 1,
        "batch_size": batch,
        "method": method,
        "datasets": [*PLACES, "globals"],
    }
    here = beside_workers(trial, "seed_gaps_workers.objects", args).tensors
    loader = "DataLoader(…, num_workers=2, worker_init_fn=seed_worker)"
    kinds = ["np.random.Generator", "random.Random"]
    kinds += ["torch.Generator"] if method == "fork" else []
    require_apart(here.under("globals"), f"{loader}, a dataset without any", 2, GLOBALS)
    for place, told in PLACES.items():
        own = [f"{kind} of the wrapper" for kind in kinds] if place == "wrapper" else []
        suffix = "" if place == "dataset" else "_inside"
        require_apart(here.under(place), f"{loader}, {told}", 2, kinds, suffix)
        require_apart(here.under(place), f"{loader}, {told}", 2, own, "_around")
    beside_workers(trial, "seed_gaps_workers.objects", args | {"datasets": ["list"]})
    told = args | {"datasets": ["wrapper", "globals"]}
    other = fresh(trial, "seed_gaps_workers.objects", told).tensors
    if bad := differing({name: here[name] for name in other}, other):
        kind = bad[0].rsplit("/", 1)[1]
        raise Wrong(
            f"{loader}, the same seed in two interpreters whose string hashes differ: {kind} drew "
            "something else.",
            "runs",
        )
    return f"{names(kinds)}: different in each worker and epoch, the same in each run."
