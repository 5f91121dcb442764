"""Incident 03, task 3: every rank restores everything, and all of them agree. And strip_prefix."""

from __future__ import annotations

import re
from typing import Any

from grader.checks import diagnose
from grader.checks.ddp_race_ranks import (
    GENERATORS,
    PATIENT,
    SGD,
    draw_batches,
    draw_told,
    on_ranks,
    ranks_told,
    require_file,
    require_returned,
    spoken,
    wrong_generators,
)
from grader.evidence import Evidence, Tensors, differing, names
from grader.judge import Trial, Wrong, decides

CALL = "load_checkpoint_ddp(…)"


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
        after = draw_batches(trial, 2, 6)
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
            _require_same(rank, truth, evidence)
        steps += 6
    return f"Two ranks in DDP, saved, loaded by new ones: {steps} more steps, equal to the bit."


def _require_same(rank: int, truth: Evidence, got: Evidence) -> None:
    want = truth.tensors.under(f"rank{rank}")
    first = truth.tensors.under("rank0")
    told = f"Trained on 2 ranks, saved, loaded by 2 new ones, trained on. On rank {rank}: "
    # Batch norm's statistics differ by rank until the next forward pass, for which DDP sends
    # rank 0's to all: right after the load it is rank 0's that count.
    found = (
        diagnose.weights(first, got.tensors)
        or diagnose.rates(truth.facts, got.facts)
        or diagnose.optimizer(want, got.tensors)
    )
    if found:
        cause = {"buffers": "model", "model_missing": "model", "model_partly": "model"}
        other = "optimizer" if found[1].startswith("optimizer") else found[1]
        raise Wrong(told + found[0], cause.get(found[1], other))
    draws = got.tensors.under("end/draws")
    if bad := wrong_generators(want.under("end/draws"), draws):
        as_first = rank and not wrong_generators(first.under("end/draws"), draws)
        raise Wrong(
            f"{told}{spoken(bad)} generator is not where it was saved"
            + (", but where rank 0's is: both ranks draw the same masks." if as_first else "."),
            "rng_rank0" if as_first else "rng",
        )
    for step in range(1, 7):
        if differing(want.under(f"step{step}"), got.tensors.under(f"step{step}")):
            raise Wrong(f"{told}step {step} after the load gave other weights.", "model")


@decides("ddp_race.one_answer")
def one_answer(trial: Trial) -> str:
    told = draw_told(trial)
    keys = ["epoch", "loss", "rng_state", "optimizer_state_dict", "scheduler_state_dict"]
    key = keys[int(trial.rng.integers(len(keys)))]
    how = "none" if key.startswith("sched") else str(trial.rng.choice(["absent", "none"]))
    other = "scheduler_state_dict" if key != "scheduler_state_dict" else "epoch"
    variants = {"lacks": [key, how], "lacks-too": [other, "none"]}
    made = trial.trusted(
        "ddp_race_load.make_checkpoint", {**told, "ranks": 3, "variants": variants}
    )
    whole = made.files["run.pt"]
    bad = int(trial.rng.integers(1, 3))  # the rank whose disk is another one
    half = whole[: len(whole) // 2]
    disks: dict[str, list[bytes | None]] = {
        "nowhere": [None, None, None],
        "only_first": [whole, *(None if r == bad else whole for r in (1, 2))],
        "damaged": [whole, *(half if r == bad else whole for r in (1, 2))],
        "first_damaged": [half, whole, whole],
        "lacks": [made.files["lacks.pt"]] * 3,
        "lacks-too": [made.files["lacks-too.pt"]] * 3,
        "no_extra": [whole] * 3,
        "first_lacks_it": [None, whole, whole],
    }
    order = [list(disks)[int(i)] for i in trial.rng.permutation(len(disks))]
    labels = {name: f"case-{number}" for number, name in enumerate(order)}
    cases = {labels[n]: {"file": f"{labels[n]}.pt", "ema": n == "no_extra"} for n in order}
    files = {
        f"disk-{rank}/{labels[name]}.pt": content
        for name, contents in disks.items()
        for rank, content in enumerate(contents)
        if content is not None
    }
    files |= {f"disk-{rank}/.here": b"" for rank in range(3)}
    args = {"spec": SGD, "other_seed": trial.draw_seed(), "cases": cases}
    ranks = on_ranks(trial, "ddp_race_load.load_together", args, 3, files=files)
    fresh = trial.trusted("ddp_race_load.untouched", {**args, "ranks": 3}).tensors
    came = _Answers(trial, ranks, fresh, made.tensors.under("saved"), labels)
    for name in order:
        if labels[name] not in ranks[0].facts:
            continue
        if name == "nowhere":
            came.require_absent(name, "There is no file")
        elif name in ("only_first", "first_lacks_it"):
            lacks = bad if name == "only_first" else 0
            came.require_agreed(name, f"The file is on every rank's disk but rank {lacks}'s", lacks)
        elif name in ("damaged", "first_damaged"):
            lacks = bad if name == "damaged" else 0
            came.require_agreed(name, f"Rank {lacks}'s copy of the file is cut short", lacks)
        else:
            missing = {"lacks": key, "lacks-too": other}.get(name, "ema_state_dict")
            came.require_refused(name, missing)
    return (
        "Absent, unreadable on one rank, incomplete: each time one answer, the same on three ranks."
    )


class _Answers:
    """What three ranks made of each case."""

    def __init__(
        self,
        trial: Trial,
        ranks: list[Evidence],
        fresh: Tensors,
        saved: Tensors,
        labels: dict[str, str],
    ) -> None:
        self.ranks, self.fresh, self.saved, self.labels = ranks, fresh, saved, labels

    def facts(self, name: str, case: str) -> list[dict[str, Any]]:
        facts = [evidence.facts[self.labels[name]] for evidence in self.ranks]
        slow = [rank for rank, fact in enumerate(facts) if fact["seconds"] > PATIENT]
        if slow:
            raised = [rank for rank in range(3) if rank not in slow]
            others = f"{ranks_told(raised)} had gone on, and " if raised else ""
            raise Wrong(
                f"{case}: {others}{ranks_told(slow)} waited {max(f['seconds'] for f in facts):.0f} "
                "s for an answer (the limit here; torch's default is 30 min).",
                "hang",
            )
        return facts

    def told(self, facts: list[dict[str, Any]]) -> str:
        return "; ".join(
            f"rank {rank} {'raised ' + fact['raised'] if fact['raised'] else 'returned'}"
            for rank, fact in enumerate(facts)
        )

    def untouched(self, name: str, rank: int) -> bool:
        got = self.ranks[rank].tensors.under(self.labels[name])
        return not differing(self.fresh.under(f"rank{rank}"), got)

    def require_absent(self, name: str, case: str) -> None:
        facts = self.facts(name, case)
        if not all("FileNotFoundError" in fact["bases"] for fact in facts):
            raise Wrong(
                f"{case}: FileNotFoundError is expected on every rank; {self.told(facts)}.",
                "not_found",
            )
        self.require_untouched(name, case)

    def require_untouched(self, name: str, case: str) -> None:
        for rank in range(3):
            if not self.untouched(name, rank):
                raise Wrong(f"{case}: it raised, but rank {rank} had been changed.", "too_late")

    def require_agreed(self, name: str, case: str, lacks: int) -> None:
        """All raise FileNotFoundError, or all CheckpointError with the number; or, where only
        some ranks read the disk, all have loaded."""
        facts = self.facts(name, case)
        if all("FileNotFoundError" in fact["bases"] for fact in facts) and "copy" not in case:
            return self.require_untouched(name, case)
        if not any(fact["raised"] for fact in facts):
            for rank in range(3):
                got = self.ranks[rank].tensors.under(self.labels[name])
                if differing(self.saved.under("model"), got.under("model")):
                    raise Wrong(f"{case}: all returned, and rank {rank} loaded nothing.", "alone")
            return None
        if len({fact["raised"] is None for fact in facts}) > 1 or not all(
            "CheckpointError" in fact["bases"] for fact in facts
        ):
            raise Wrong(f"{case}: {self.told(facts)}. All are to give one answer.", "alone")
        for rank, fact in enumerate(facts):
            if not re.search(rf"\b{lacks}\b", "\n".join(fact["texts"])):
                raise Wrong(
                    f"{case}: CheckpointError on all, but on rank {rank} it does not say that it "
                    f"was rank {lacks}: {fact['texts'][0].splitlines()[0][:160]}",
                    "unnamed",
                )
        return None

    def require_refused(self, name: str, missing: str) -> None:
        case = f"The file has no {missing}"
        facts = self.facts(name, case)
        short = missing.removesuffix("_state_dict").removesuffix("_state")
        for rank, fact in enumerate(facts):
            if not fact["raised"]:
                raise Wrong(f"{case}: on rank {rank} the call returned.", "silent")
            if "CheckpointError" not in fact["bases"]:
                raise Wrong(
                    f"{case}: expected CheckpointError; rank {rank}: {fact['texts'][0][:160]}",
                    "wrong_exception",
                )
            if short not in "\n".join(fact["texts"]):
                raise Wrong(
                    f"{case}: the error does not name it: {fact['texts'][0]!r:.160}", "lacks"
                )
        self.require_untouched(name, case)


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
        "eval": bool(trial.rng.integers(2)),
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
        if fact["training"] == args["eval"]:
            raise Wrong("Loading changed the model's train/eval mode.", "mode_changed")
        if bad := differing(truth.under("saved"), got):
            raise Wrong(f"On rank {rank} these did not come back: {names(bad)}.", "model")
        if (average := got.get("ema")) is None or average.array().tolist() != [2.5] * 3:
            raise Wrong(f"On rank {rank} the extra ema did not come back.", "extra")
        if bad := wrong_generators(truth.under(f"rank{rank}/draws"), got.under("draws")):
            _blame_generators(rank, bad, truth, got)
    _require_devices(trial, ranks, files, args)
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


@decides("ddp_race.prefix")
def prefix(trial: Trial) -> str:
    words = ["module", "decoder", "embed", "sub_module", "output", "lemma", "w"]
    drawn = [words[int(i)] for i in trial.rng.permutation(len(words))]
    all_wrapped = [f"module.{word}.weight" for word in drawn]
    mixed = [
        "module.module.w",
        "sub_module.w",
        "module.sub_module.module.w",
        drawn[0] + ".bias",
        "modulew",
        "module",
    ]
    metadata = [
        ["", 1],
        ["module", 2],
        *[[f"module.{word}", 3 + i] for i, word in enumerate(drawn)],
    ]
    compiled = [f"_orig_mod.{word}.weight" for word in drawn] + ["module.w"]
    cases = {
        "wrapped": {"names": all_wrapped, "prefix": None, "metadata": metadata},
        "mixed": {
            "names": mixed,
            "prefix": None,
            "metadata": [["", 1], ["sub_module", 4], ["module.module", 5]],
        },
        "compiled": {
            "names": compiled,
            "prefix": "_orig_mod.",
            "metadata": [["", 1], ["_orig_mod", 2], ["_orig_mod.w", 3], ["module", 4]],
        },
        "plain": {"names": drawn, "prefix": "module.", "metadata": None},
    }
    tensors = {"t": trial.rng.integers(0, 100, 1)}
    came = trial.probe("ddp_race_load.strip", {"cases": cases}, tensors=tensors).facts
    for name, case in cases.items():
        _require_stripped(case, came[name], int(tensors["t"][0]))
    return "One leading prefix went, from names and metadata; the argument is as it was."


def _require_stripped(case: dict[str, Any], came: dict[str, Any], first: int) -> None:
    start = case["prefix"] or "module."
    wanted = [name.removeprefix(start) for name in case["names"]]
    values = [first + number for number in range(len(wanted))]
    shown = f"strip_prefix of {names(case['names'])}" + (
        f", prefix={start!r}" if case["prefix"] else ""
    )
    argument, result = came["argument"], came["result"]
    if argument.get("names") != case["names"]:
        raise Wrong(f"{shown}: the argument has been changed.", "argument")
    if case["metadata"] is not None and argument.get("metadata") != dict(case["metadata"]):
        raise Wrong(f"{shown}: the argument's _metadata has been changed.", "argument")
    if result.get("names") != wanted:
        came_names = result.get("names")
        got = names(came_names, 8) if came_names is not None else result["type"]
        raise Wrong(f"{shown}: expected {names(wanted, 8)}; came {got}.", "surgery")
    if result.get("values") != values:
        raise Wrong(f"{shown}: the names belong to other tensors now.", "surgery")
    if case["metadata"] is None:
        return
    if "metadata" not in result:
        raise Wrong(f"{shown}: the result has no _metadata.", "metadata")
    stripped = {f"{name}.".removeprefix(start).removesuffix("."): v for name, v in case["metadata"]}
    if result["metadata"] != stripped:
        raise Wrong(
            f"{shown}: _metadata is to be {stripped}; it is {result['metadata']}.", "metadata"
        )
