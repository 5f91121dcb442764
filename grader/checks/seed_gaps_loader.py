"""Incident 02: an order that only seed and epoch decide, and nothing else disturbed by it."""

from __future__ import annotations

from typing import Any

from grader.checks.seed_gaps import SLOW, cause_of, told_names
from grader.checks.seed_gaps_workers import beside_workers
from grader.evidence import Raw, Tensors, differing
from grader.judge import Trial, Wrong, decides


@decides("seed_gaps.order")
def order(trial: Trial) -> str:
    length, batch = int(trial.rng.integers(40, 70)), int(trial.rng.integers(3, 8))
    seed = int(trial.rng.integers(2**17, 2**31))
    seeds = {str(s): s for s in (0, 1, 1 + 2**16, 2**32 - 1, seed ^ 1 << _bit(trial))}
    args = {"length": length, "batch_size": batch}
    # In one process and loader: epochs, a loop left early, epoch 5 twice, epoch 5 chosen anew.
    plan = [0, 1, "leave", 2, 5, None, 5]
    here = {"untold": [seed, [None]], "told": [seed, plan]}
    got = _orders(trial, args | {"loaders": here | {n: [s, [0, 1]] for n, s in seeds.items()}})
    # A fresh process, whose global generators stand elsewhere, and a loader that begins at 5.
    there = {"anew": [seed, [0]], "late": [seed, [5, 1]], "resized": [seed, [0]]}
    got |= {f"fresh {n}": t for n, t in _orders(trial, args | {"loaders": there}).items()}
    del got["told/2"]
    for raw in got.values():
        came = raw.array().tolist()
        if sorted(came) != list(range(length)):
            raise Wrong(
                f"{length} samples, one epoch: {len(came)} came, {len(set(came))} different ones.",
                "permutation",
            )
        if came == list(range(length)):
            raise Wrong(f"An epoch of {length} samples came in the dataset's order.", "unshuffled")
    loader = f"seeded_loader(dataset, seed={seed})"
    _require_equal(got, "told/0", "fresh anew/0", f"{loader}, epoch 0, in two processes", "shared")
    epochs = {0: "told/0", 1: "told/1", 2: "told/3", 5: "told/4"}
    for name, other in seeds.items():
        for epoch in (0, 1):
            if got[f"{name}/{epoch}"] == got[epochs[epoch]]:
                raise Wrong(f"Seeds {seed} and {other}, epoch {epoch}: the same order.", "seed")
    if got["1/0"] == got[f"{1 + 2**16}/0"]:
        raise Wrong(f"Seeds 1 and {1 + 2**16}, epoch 0: the same order.", "seed")
    pairs = [(a, b, seed, epochs[a], epochs[b]) for a in epochs for b in epochs if a < b]
    pairs += [(0, 1, other, f"{name}/0", f"{name}/1") for name, other in seeds.items()]
    for a, b, which, one, two in pairs:
        if got[one] == got[two]:
            raise Wrong(f"Seed {which}: epochs {a} and {b} have the same order.", "epoch")
    for one, two, said, cause in (
        ("told/4", "fresh late/0", "epoch 5, after others and in a fresh process", "history"),
        ("told/1", "fresh late/1", "epoch 1, after epoch 0 and after epoch 5", "history"),
        ("told/4", "told/5", "set_epoch(5), iterated twice", "stays"),
        ("told/4", "told/6", "set_epoch(5), twice", "history"),
        ("told/0", "fresh resized/0", "with another batch_size", "batch_size"),
        ("untold/0", "told/0", "before any set_epoch, and after set_epoch(0)", "before_first"),
    ):
        _require_equal(got, one, two, f"{loader}, {said}", cause)
    return f"{len(got)} epochs of {length} samples: seed and epoch decide the order."


def _bit(trial: Trial) -> int:
    return int(trial.rng.integers(16, 32))


def _orders(trial: Trial, args: dict[str, Any]) -> dict[str, Raw]:
    came = trial.probe("seed_gaps.orders", args, seconds=SLOW)
    if came.facts.get("no_set_epoch"):
        raise Wrong("loader.sampler has no set_epoch(epoch).", "no_set_epoch")
    return came.tensors


def _require_equal(got: dict[str, Raw], one: str, two: str, said: str, cause: str) -> None:
    a, b = got[one].array(), got[two].array()
    if (a != b).any():
        place = int((a != b).argmax())
        raise Wrong(
            f"{said}: another order. First difference: sample {place}, which is number "
            f"{int(a[place])} in the one and {int(b[place])} in the other.",
            cause,
        )


@decides("seed_gaps.untouched")
def untouched(trial: Trial) -> str:
    """What the global generators draw around and inside the loop, against no loader at all."""
    for workers in (0, 2):
        args = {
            "start": trial.draw_seed(),
            "seed": trial.draw_seed(),
            "length": int(trial.rng.integers(12, 20)),
            "batch_size": 4,
            "num_workers": workers,
            "epochs": 2,
        }
        came = beside_workers(trial, "seed_gaps.untouched", args).tensors
        truth = trial.trusted("seed_gaps.without_a_loader", args).tensors
        if bad := differing(truth, came):
            _told_where(truth, came, bad[0].rsplit("/", 1)[0], workers)
    return "Around the loader and between its batches the generators draw as if it were not there."


def _told_where(truth: Tensors, came: Tensors, point: str, workers: int) -> None:
    moved = differing(truth.under(point), came.under(point))
    when = "after the loader was built" if point == "built" else f"after {point}"
    missing = not came.under(point)
    raise Wrong(
        f"Drew from the global generators around seeded_loader(…, num_workers={workers}) and after "
        f"each batch. First difference: {when}: "
        + ("that batch never came." if missing else f"{told_names(moved)} had moved."),
        "built" if point == "built" else f"moved_{cause_of(moved)}",
    )


@decides("seed_gaps.fine_print")
def fine_print(trial: Trial) -> str:
    batch = int(trial.rng.integers(3, 7))
    length = batch * int(trial.rng.integers(3, 6)) + int(trial.rng.integers(1, batch))
    args = {"length": length, "batch_size": batch}
    facts = trial.probe("seed_gaps.arguments", args, seconds=SLOW).facts
    for call, bases in facts["refused"].items():
        if bases is None or "TypeError" not in bases:
            came = "nothing was raised" if bases is None else f"came {bases[0]}"
            raise Wrong(
                f"seeded_loader(dataset, seed=0, {call}): expected a TypeError; {came}.", "refuse"
            )
    if not facts["is_loader"]:
        raise Wrong("seeded_loader is to return a torch.utils.data.DataLoader.", "handed_on")
    if facts["batches"] != length // batch or not facts["collated"]:
        raise Wrong(
            f"{length} samples, batch_size={batch}, drop_last=True, collate_fn=sum: expected "
            f"{length // batch} sums; {facts['batches']} batches came"
            + ("." if facts["collated"] else ", and they are no sums."),
            "handed_on",
        )
    if facts["plain_batches"] != length // batch + 1:
        raise Wrong(
            f"{length} samples, batch_size={batch}, nothing else: expected {length // batch + 1} "
            f"batches, the last one smaller; {facts['plain_batches']} came.",
            "handed_on",
        )
    if not facts["unbatched"]:
        raise Wrong("A list as dataset, batch_size=None: expected each sample once.", "handed_on")
    return f"{len(facts['refused'])} calls refused by TypeError; what is DataLoader's is handed on."
