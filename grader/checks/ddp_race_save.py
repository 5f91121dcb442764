"""Incident 03, task 2: one writer, every rank's generators, one outcome for all."""

from __future__ import annotations

import re
from typing import Any

from grader.checks.ddp_race_ranks import (
    PATIENT,
    draw_told,
    inspect,
    on_ranks,
    ranks_told,
    require_contents,
    require_file,
    require_returned,
    spoken,
    wrong_generators,
)
from grader.evidence import Evidence, Tensors, differing, names
from grader.judge import Trial, Wrong, decides

CALL = "save_checkpoint_ddp(…)"


@decides("ddp_race.one_writer")
def one_writer(trial: Trial) -> str:
    told = draw_told(trial)
    ranks = on_ranks(trial, "ddp_race.save_as_nodes", told, 4)
    truth = trial.trusted("ddp_race.expected", {**told, "ranks": 4}).tensors
    alone = "Four ranks on two nodes; only global rank 0 can write. "
    for rank, evidence in enumerate(ranks):
        text = "\n".join(evidence.facts["texts"])
        if re.search(r"File too large|writ|unexpected pos|\.tmp|No such file", text):
            raise Wrong(f"{alone}Rank {rank} failed: {text.splitlines()[0][:200]}", "writers")
    require_returned(ranks, CALL)
    file = require_file(ranks[0], cause="early")
    for rank, evidence in enumerate(ranks):
        seen = evidence.tensors.get("seen")
        if seen is None or seen.data != file:
            what = "no file" if seen is None else f"{len(seen.data)} of {len(file)} bytes"
            raise Wrong(
                f"Rank 0 wrote slowly (0.3 s). When {CALL} returned on rank {rank}, there was "
                f"{what}.",
                "early",
            )
    if extra := sorted(set(ranks[0].left()) - {"run.pt"}):
        writers = all(e.split(".")[0] in ("run", "") or "rng" in e for e in extra)
        raise Wrong(
            f"{alone}Beside the checkpoint there is now {names(extra)}.",
            "writers" if writers else "litter",
        )
    inside = inspect(trial, file)
    require_contents(inside, truth.under("rank0"), told, scheduler=True)
    _require_extra(inside)
    _require_states(inside, truth, 4)
    _require_undisturbed(ranks, truth)
    _require_one_disk(trial, told)
    return (
        "One file, written by global rank 0, whole on every rank's return; four RNG states in it."
    )


def _require_extra(inside: Evidence) -> None:
    average = inside.tensors.get("ema")
    if average is None or average.array().tolist() != [1.5] * 3:
        came = "is of another form" if average is None else "is another rank's"
        raise Wrong(f"The extra ema differs by rank; in the file it {came}, not rank 0's.", "extra")


def _require_states(inside: Evidence, truth: Tensors, ranks: int) -> None:
    states = inside.facts["states"]
    if states != ranks:
        came = f"{states} entries" if isinstance(states, int) else f"a {states}"
        raise Wrong(
            f'"rng_state_per_rank" is to be a list with {ranks} entries, by rank; it is {came}.',
            "rng_list",
        )
    for rank in range(ranks):
        want = truth.under(f"rank{rank}/draws")
        bad = wrong_generators(want, inside.tensors.under(f"rank{rank}/draws"))
        if bad:
            first = truth.under("rank0/draws")
            same = rank and not wrong_generators(first, inside.tensors.under(f"rank{rank}/draws"))
            raise Wrong(
                f"rng_state_per_rank[{rank}] holds another state than rank {rank} had: "
                f"{spoken(bad)} generator draws something else"
                + (", what rank 0's draws." if same else "."),
                "rng_rank0" if same else "rng_partly",
            )
    bad = wrong_generators(truth.under("rank0/draws"), inside.tensors.under("rng_state/draws"))
    if bad:
        raise Wrong(
            f'"rng_state" is to be rank 0\'s: {spoken(bad)} generator draws something else.',
            "rng_state",
        )


def _require_one_disk(trial: Trial, told: dict[str, Any]) -> None:
    """Each rank with a disk of its own: which of them have written is then seen from outside."""
    there = {f"disk-{rank}/runs/.here": b"" for rank in range(4)}
    ranks = on_ranks(trial, "ddp_race_load.save_on_disks", told, 4, files=there)
    case = "Four ranks on two nodes, each with a disk of its own"
    # What the others make of a disk on which rank 0's file is not is up to them.
    if ranks[0].facts["raised"]:
        text = ranks[0].facts["texts"][0].splitlines()[0][:200]
        raise Wrong(f"{case}: {CALL} into a directory that is there raised {text}", "raises")
    new = sorted(set(ranks[0].left()) - set(there) - {"disk-0/runs/run.pt"})
    if new:
        mine = all(name.startswith("disk-0/") for name in new)
        raise Wrong(
            f"{case}: after the save there is {names(new)}.", "litter" if mine else "writers"
        )


def _require_undisturbed(ranks: list[Evidence], truth: Tensors) -> None:
    for rank, evidence in enumerate(ranks):
        if not evidence.facts["training"]:
            raise Wrong("Saving changed the model's mode from train to eval.", "save_disturbs")
        want = truth.under(f"rank{rank}/draws")
        if bad := wrong_generators(want, evidence.tensors.under("after/draws")):
            raise Wrong(
                f"Saving moved {spoken(bad)} generator on rank {rank}: its next draw changed.",
                "save_disturbs",
            )


@decides("ddp_race.failing_writer")
def failing_writer(trial: Trial) -> str:
    told = draw_told(trial)
    kinds = ["KeyError", "RuntimeError", "OSError", "_Picky"]
    order = [kinds[int(i)] for i in trial.rng.permutation(4)]
    late = [bool(n) for n in trial.rng.permutation([True, True, False, True])]
    told["errors"] = [list(pair) for pair in zip(order, late, strict=True)]
    ranks = on_ranks(trial, "ddp_race.fail_to_save", told, 2)
    texts = {
        "KeyError": "ema-decay",
        "RuntimeError": "PytorchStreamWriter failed writing file data/3",
        "OSError": "No space left on device",
        "_Picky": "quota of project 7 exceeded",
    }
    for number, kind in enumerate(order):
        facts = [evidence.facts.get(str(number)) for evidence in ranks]
        told_kind = "an exception that cannot be pickled" if kind == "_Picky" else kind
        case = f"Rank 0's write failed with {told_kind}: {texts[kind]}. "
        _require_told(case, kind, texts[kind], [fact for fact in facts if fact is not None])
    require_returned(ranks, f"After these failures, the next {CALL}", "no_next", key="next")
    inside = inspect(trial, require_file(ranks[0]))
    truth = trial.trusted("ddp_race.expected", {**told, "ranks": 2}).tensors
    require_contents(inside, truth.under("rank0"), told, scheduler=True)
    slowest = max(e.facts[str(n)]["seconds"] for e in ranks for n in range(len(order)))
    return (
        f"{len(order)} failing writers: both ranks raised with the cause, within "
        f"{max(slowest, 0.1):.1f} s, and the next save went well."
    )


def _require_told(case: str, kind: str, text: str, facts: list[dict[str, Any]]) -> None:
    slow = [rank for rank, fact in enumerate(facts) if fact["seconds"] > PATIENT]
    silent = [rank for rank, fact in enumerate(facts) if not fact["raised"]]
    if slow:
        waited = max(fact["seconds"] for fact in facts)
        raise Wrong(
            f"{case}{ranks_told(slow).capitalize()} waited {waited:.0f} s for the rest (the limit "
            "here; torch's default is 30 min).",
            "unpickled" if any("pickl" in text for f in facts for text in f["texts"]) else "hang",
        )
    if len(silent) == len(facts):
        raise Wrong(f"{case}Every rank returned as if it had been saved.", "swallowed")
    if silent:
        raise Wrong(f"{case}{ranks_told(silent).capitalize()} returned.", "only_rank0")
    for rank, fact in enumerate(facts):
        said = "\n".join(fact["texts"])
        if kind not in said or text not in said:
            lacking = "type" if text in said else "message"
            raise Wrong(
                f"{case}On rank {rank} the {lacking} is nowhere in what was raised: "
                f"{fact['texts'][0].splitlines()[0][:200]}",
                "unpickled" if kind == "_Picky" and "pickle" in said else "no_cause",
            )


@decides("ddp_race.in_all_else")
def in_all_else(trial: Trial) -> str:
    for ranks, wrapped in ((2, False), (1, False), (2, True)):
        told = draw_told(trial) | {"wrapped": wrapped}
        came = on_ranks(trial, "ddp_race.save_otherwise", told, ranks)
        truth = trial.trusted("ddp_race.expected", {**told, "ranks": ranks}).tensors
        kind = "a model in DDP" if wrapped else "a model that is not wrapped"
        where = f"on {ranks} ranks" if ranks > 1 else "without a process group"
        call = f"save_checkpoint_ddp('runs/today/run.pt', …, scheduler=None) {where}, {kind},"
        fact = came[0].facts
        if any(
            "FileNotFoundError" in text or "o such file" in text or "Parent directory" in text
            for text in fact["texts"]
        ):
            raise Wrong(f"{call} raised: {fact['texts'][0][:200]}", "parents")
        if ranks == 1 and fact["raised"]:
            raise Wrong(f"{call} raised: {fact['texts'][0][:200]}", "group_needed")
        require_returned(came, call)
        inside = inspect(trial, require_file(came[0], "runs/today/run.pt"))
        if extra := sorted(set(came[0].left()) - {"runs/today/run.pt"}):
            raise Wrong(f"Beside the checkpoint there is now {names(extra)}.", "litter")
        require_contents(inside, truth.under("rank0"), told, scheduler=False)
        if "sampler_state_dict" in inside.facts["keys"]:
            raise Wrong("An extra that is None is to be left out of the file.", "extra")
        _require_extra(inside)
        for rank, evidence in enumerate(came):
            after, want = evidence.tensors.under("after"), truth.under(f"rank{rank}")
            if evidence.facts["training"]:
                raise Wrong("Saving changed the model's mode from eval to train.", "save_disturbs")
            if bad := differing(want, after):
                raise Wrong(f"Saving changed {names(bad)} on rank {rank}.", "save_disturbs")
    return (
        "Unwrapped, without a group, without a scheduler, into a new directory: as save_checkpoint."
    )
