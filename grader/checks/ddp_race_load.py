"""Incident 03, task 3: every rank restores everything, and its own generators."""

from __future__ import annotations

from typing import Any

from grader.checks import diagnose
from grader.checks.ddp_race_ranks import (
    GENERATORS,
    SGD,
    draw_batches,
    draw_told,
    on_ranks,
    require_file,
    require_returned,
    spoken,
    wrong_generators,
)
from grader.evidence import Evidence, Tensors, differing, names
from grader.judge import Trial, Wrong, decides

CALL = "load_checkpoint_ddp(…)"
STEPS = 6  # after the load
TOLD = "Trained on 2 ranks, saved, loaded by 2 new ones, trained on."


@decides("ddp_race.same_bits")
def same_bits(trial: Trial) -> str:
    steps = 0
    for optimizer in ("sgd", "adamw"):
        told = draw_told(trial) | {"spec": SGD | {"optimizer": optimizer}}
        before = draw_batches(trial, 2, 2 * int(trial.rng.integers(2, 4)) + 1)
        saved = on_ranks(trial, "ddp_race.train_and_save", told, 2, tensors=before)
        require_returned(saved, "save_checkpoint_ddp(…)")
        file = require_file(saved[0])
        # Only now are the batches after the resume drawn: nothing above could know them.
        after = draw_batches(trial, 2, STEPS)
        again = {"spec": told["spec"], "other_seed": trial.draw_seed()}
        resumed = on_ranks(
            trial, "ddp_race.load_and_train", again, 2, tensors=after, files={"run.pt": file}
        )
        require_returned(resumed, CALL)
        everything = before | {name + "2": array for name, array in after.items()}
        truth = trial.trusted(
            "ddp_race.uninterrupted", told, tensors=everything, world_size=2, seconds=25
        )
        for rank, evidence in enumerate(resumed):
            _require_restored(rank, truth, evidence)
        for rank, evidence in enumerate(resumed):
            _require_same_steps(rank, truth, evidence)
        steps += STEPS
    return f"Two ranks in DDP, saved, loaded by new ones: {steps} more steps, equal to the bit."


def _require_restored(rank: int, truth: Evidence, got: Evidence) -> None:
    want = truth.tensors.under(f"rank{rank}")
    first = truth.tensors.under("rank0")
    told = f"{TOLD} On rank {rank}: "
    # Batch norm's statistics differ by rank until the next forward pass, for which DDP sends
    # rank 0's to all: right after the load it is rank 0's that count.
    found = (
        diagnose.weights(first, got.tensors)
        or diagnose.optimizer(want, got.tensors)
        or diagnose.rates(truth.facts, got.facts)
    )
    if found:
        cause = {"buffers": "model", "model_missing": "model", "model_partly": "model"}
        other = "optimizer" if found[1].startswith("optimizer") else found[1]
        raise Wrong(told + found[0], cause.get(found[1], other))
    if not got.facts["training"]:
        raise Wrong(f"{told}the model was in train mode, and is in eval mode.", "mode_changed")
    draws = got.tensors.under("end/draws")
    if bad := wrong_generators(want.under("end/draws"), draws):
        as_first = rank and not wrong_generators(first.under("end/draws"), draws)
        raise Wrong(
            f"{told}{spoken(bad)} generator is not where it was saved"
            + (", but where rank 0's is: both ranks draw the same masks." if as_first else "."),
            "rng_rank0" if as_first else "rng",
        )


def _require_same_steps(rank: int, truth: Evidence, got: Evidence) -> None:
    want = truth.tensors.under(f"rank{rank}")
    for step in range(1, STEPS + 1):
        if differing(want.under(f"step{step}"), got.tensors.under(f"step{step}")):
            raise Wrong(
                f"{TOLD} On rank {rank}, step {step} after the load gave other weights.", "model"
            )


@decides("ddp_race.other_world_size")
def other_world_size(trial: Trial) -> str:
    told = draw_told(trial) | {"ema": True}
    for now, written in ((4, [2]), (2, [4, None]), (1, [2])):
        made = {
            saved: trial.trusted(
                "ddp_race_load.make_checkpoint",
                told | {"ranks": saved, "seed": trial.draw_seed()},
            )
            for saved in written
        }
        files = {f"by-{saved}.pt": evidence.files["run.pt"] for saved, evidence in made.items()}
        args = {"spec": SGD, "other_seed": trial.draw_seed()}
        args["files"] = [f"by-{saved}" for saved in written]
        ranks = on_ranks(trial, "ddp_race_load.load_elsewhere", args, now, files=files)
        for saved, evidence in made.items():
            _require_moved(ranks, f"by-{saved}", saved, now, evidence.tensors, told)
    return "2 → 4, 4 → 2, 1 → 2 and 2 → 1 ranks: all restored, no two ranks alike, and a warning."


def _require_moved(
    ranks: list[Evidence],
    name: str,
    saved: int | None,
    now: int,
    truth: Tensors,
    told: dict[str, Any],
) -> None:
    by = f"{saved} ranks" if saved else "a single process (save_checkpoint)"
    case = f"Saved by {by}, loaded by {now}"
    call = f"{CALL} of a file that {by} saved"
    if now == 1 and ranks[0].facts[name]["raised"]:
        raise Wrong(
            f"{case}, without a process group: {ranks[0].facts[name]['texts'][0][:200]}",
            "group_needed",
        )
    require_returned(ranks, call, "refuses", key=name)
    for rank, evidence in enumerate(ranks):
        got = evidence.tensors.under(name)
        if bad := differing(truth.under("saved/model"), got.under("model")):
            raise Wrong(f"{case}: on rank {rank} these did not come back: {names(bad)}.", "model")
        if differing(truth.under("saved/optimizer"), got.under("optimizer")):
            raise Wrong(
                f"{case}: on rank {rank} the optimizer's state did not come back.", "optimizer"
            )
    _require_streams(ranks, name, saved or 1, case, truth)
    if not ranks[0].facts[name]["warnings"]:
        raise Wrong(
            f"{case}: rank 0 was not warned that this cannot be bit-identical.", "no_warning"
        )
    for rank, evidence in enumerate(ranks):
        returned = evidence.facts[name]["returned"]
        if returned.get("world_size") != (saved or 1):
            raise Wrong(
                f"{case}: world_size is to be {saved or 1}, as saved; on rank {rank} it is "
                f"{returned.get('world_size')}.",
                "world_size",
            )


def _require_streams(
    ranks: list[Evidence], name: str, saved: int, case: str, truth: Tensors
) -> None:
    drawn: dict[bytes, str] = {}
    for rank in range(saved):
        for generator in GENERATORS:
            drawn[truth[f"rank{rank}/draws/{generator}"].data] = f"the saved rank {rank}'s"
    for rank, evidence in enumerate(ranks):
        got = evidence.tensors.under(f"{name}/draws")
        if rank < saved:
            if bad := wrong_generators(truth.under(f"rank{rank}/draws"), got):
                raise Wrong(
                    f"{case}: rank {rank} had a state in the file, and its {spoken(bad)} generator "
                    "is another one.",
                    "rng",
                )
            continue
        for generator in GENERATORS:
            data = got[generator].data if generator in got else b""
            if data in drawn:
                raise Wrong(
                    f"{case}: the new rank {rank}'s {spoken([generator])} generator draws exactly "
                    f"what {drawn[data]} draws.",
                    "alike",
                )
            drawn[data] = f"the new rank {rank}'s"


@decides("ddp_race.fine_print")
def fine_print(trial: Trial) -> str:
    told = draw_told(trial) | {"ema": True, "ranks": 4}
    made = trial.trusted("ddp_race_load.make_checkpoint", told)
    args: dict[str, Any] = {
        "spec": SGD,
        "other_seed": trial.draw_seed(),
        "eval": int(trial.rng.integers(2)),
    }
    args["files"] = ["run", "gpu"]
    files = {name: made.files[name] for name in ("run.pt", "gpu.pt")}
    ranks = on_ranks(trial, "ddp_race_load.load_elsewhere", args, 4, files=files)
    require_returned(ranks, CALL, key="run")
    truth = made.tensors
    for rank, evidence in enumerate(ranks):
        fact, got = evidence.facts["run"], evidence.tensors.under("run")
        returned = fact["returned"]
        if returned["type"] != "dict" or returned["keys"] != ["epoch", "loss", "world_size"]:
            came = returned.get("keys", returned["type"])
            raise Wrong(
                f'{CALL} is to return {{"epoch", "loss", "world_size"}}; it returned {came}.',
                "returns",
            )
        wanted = {"epoch": told["epoch"], "loss": told["loss"], "world_size": 4}
        if bad := [key for key, value in wanted.items() if returned[key] != value]:
            raise Wrong(f"{CALL} returned another {names(bad)} than was saved.", "returns")
        if fact["training"] != (rank % 2 != args["eval"]):
            raise Wrong("Loading changed the model's train/eval mode.", "mode_changed")
        if bad := differing(truth.under("saved"), got):
            raise Wrong(f"On rank {rank} these did not come back: {names(bad)}.", "model")
        if (average := got.get("ema")) is None or average.array().tolist() != [2.5] * 3:
            raise Wrong(f"On rank {rank} the extra ema did not come back.", "extra")
        if bad := wrong_generators(truth.under(f"rank{rank}/draws"), got.under("draws")):
            _blame_generators(rank, bad, truth, got)
    _require_devices(trial, ranks, files, args)
    misfit = {"misfit.pt": made.files["misfit.pt"]}
    for rank, evidence in enumerate(on_ranks(trial, "ddp_race_load.fit", args, 2, files=misfit)):
        if "RuntimeError" not in evidence.facts["bases"]:
            came = evidence.facts["raised"] or "nothing"
            raise Wrong(
                "A file in which the model's output.bias is called output.shift was loaded: "
                f"expected torch's RuntimeError, came {came} on rank {rank}.",
                "not_strict",
            )
    return (
        "Returned values, modes, devices, extras that draw, four ranks on two nodes: as promised."
    )


def _blame_generators(rank: int, bad: list[str], truth: Tensors, got: Tensors) -> None:
    others = [
        r
        for r in range(4)
        if not wrong_generators(truth.under(f"rank{r}/draws"), got.under("draws"))
    ]
    if others:
        raise Wrong(
            f"Four ranks on two nodes (LOCAL_RANK 0, 1, 0, 1): rank {rank} took rank {others[0]}'s "
            "generators.",
            "rng_rank0" if others == [0] and rank == 1 else "local_rank",
        )
    raise Wrong(
        f"An extra draws random numbers while it loads; after {CALL} rank {rank}'s {spoken(bad)} "
        "generator is not where it was saved.",
        "rng_not_last",
    )


def _require_devices(
    trial: Trial, ranks: list[Evidence], files: dict[str, bytes], args: dict[str, Any]
) -> None:
    for rank, evidence in enumerate(ranks):
        if evidence.facts["gpu"]["raised"]:
            raise Wrong(
                "A file whose tensors were saved on cuda:0 does not load where the model is on the "
                f"CPU, called without map_location. Rank {rank}: "
                f"{evidence.facts['gpu']['texts'][0].splitlines()[0][:120]}",
                "map_location",
            )
    asked = trial.probe("ddp_race_load.locate", args, files={"run.pt": files["run.pt"]})
    if not asked.facts["asked"]:
        raise Wrong("A function given as map_location was never called.", "map_location")
