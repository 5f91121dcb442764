"""Incident 03, task 3: whatever the ranks find, they give one answer. And strip_prefix."""

from __future__ import annotations

import re
from typing import Any

from grader.checks.ddp_race_ranks import PATIENT, SGD, draw_told, on_ranks, ranks_told
from grader.evidence import Evidence, Tensors, differing, names
from grader.judge import Trial, Wrong, decides


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
