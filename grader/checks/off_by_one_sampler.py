"""Incident 04: ResumableSampler, its order, its position, its ranks."""

from __future__ import annotations

from typing import Any

from grader.checks.off_by_one import numbers
from grader.evidence import Evidence, differing, names
from grader.judge import Failed, Trial, Wrong, decides

Ops = list[list[Any]]


def ids(evidence: Evidence, label: str) -> list[int]:
    """What an iteration yielded."""
    return numbers(evidence, label, None)


def number(evidence: Evidence, label: str) -> int:
    return numbers(evidence, label)


def few(indices: list[int], limit: int = 6) -> str:
    return ", ".join(map(str, indices[:limit])) + (", …" if len(indices) > limit else "")


def script(
    trial: Trial, ops: Ops, files: dict[str, bytes] | None = None, **args: Any
) -> tuple[Evidence, dict[str, bytes]]:
    """Run calls on samplers in a fresh process; the evidence, and the states that it saved."""
    came = trial.probe("off_by_one_parts.samplers", {"ops": ops, **args}, files=files)
    saved = {name: came.files[name] for name in came.left() if name.endswith(".pt")}
    if saved:
        told = {"files": sorted(saved)}
        opened = trial.trusted("off_by_one_parts.open_states", told, files=saved)
        for blocked in opened.facts["refused"].values():
            raise Wrong(
                "torch.load, with its default, refuses what sampler.state_dict() returned. "
                f"Blocked: {names(blocked) or 'not named'}.",
                "state_refused",
            )
    return came, saved


def require_permutation(order: list[int], length: int, done: str) -> None:
    if sorted(order) == list(range(length)):
        return
    never = sorted(set(range(length)) - set(order))
    twice = sorted({index for index in order if order.count(index) > 1})
    raise Wrong(
        f"{done}: {len(order)} indices, which are no permutation of range({length}). "
        f"Never: {few(never) or 'none'}. More than once: {few(twice) or 'none'}.",
        "no_permutation",
    )


@decides("off_by_one.order")
def order(trial: Trial) -> str:
    length, seed = int(trial.rng.integers(30, 60)), trial.draw_seed()
    last = int(trial.rng.integers(4, 9))
    ops: Ops = [["new", "a", length, seed]]
    for epoch in range(last + 1):
        ops += [["set_epoch", "a", epoch], ["iterate", "a", f"{epoch}"]]
    ops += [["iterate", "a", "again"], ["set_epoch", "a", 0], ["iterate", "a", "back"]]
    start = trial.draw_seed()
    first, _ = script(trial, ops, generators=start)
    for epoch in range(last + 1):
        require_permutation(ids(first, f"{epoch}"), length, f"set_epoch({epoch}), list(sampler)")
    made = f"ResumableSampler({length}, seed={seed})"
    if ids(first, "0") == ids(first, f"{last}"):
        raise Wrong(f"{made}: epoch 0 and epoch {last} have the same order.", "epochs_same")
    if ids(first, "again") != ids(first, f"{last}"):
        raise Wrong(f"{made}, set_epoch({last}): iterating twice gave two orders.", "order_history")
    ops = [["new", "a", length, seed], ["set_epoch", "a", last], ["iterate", "a", "here"]]
    ops += [["new", "b", length, seed + 1], ["set_epoch", "b", last], ["iterate", "b", "other"]]
    ops += [["length", "a", "len"], ["save", "a", "state.pt"]]
    fresh, _ = script(trial, ops, generators=start + 1)
    for came, seeded in ((first, start), (fresh, start + 1)):
        told = {"generators": seeded}
        truth = trial.trusted("off_by_one_parts.untouched_generators", told).tensors
        if moved := differing(truth, came.tensors):
            moved = [name.removeprefix("draws/") for name in moved]
            raise Wrong(f"Using the sampler moved a global generator: {names(moved)}.", "moves")
    if ids(fresh, "here") != ids(first, f"{last}"):
        raise Wrong(
            f"{made}, set_epoch({last}), in two processes: {few(ids(first, str(last)))} in one, "
            f"{few(ids(fresh, 'here'))} in the other.",
            "order_process",
        )
    if ids(fresh, "other") == ids(fresh, "here"):
        raise Wrong(f"Seeds {seed} and {seed + 1} give the same order.", "seeds_same")
    if number(fresh, "len") != length:
        raise Wrong(f"{made}: len() is {number(fresh, 'len')}.", "len_whole")
    return f"{last + 1} epochs of {length}: the same in two processes, no generator moved."


class Walk:
    """One sampler, followed over several processes: where it stands, what it is to yield."""

    def __init__(self, trial: Trial, epochs: list[int]) -> None:
        self.trial = trial
        self.length, self.seed = int(trial.rng.integers(40, 70)), trial.draw_seed()
        ops: Ops = [["new", "a", self.length, self.seed]]
        for epoch in epochs:
            ops += [["set_epoch", "a", epoch], ["iterate", "a", f"{epoch}"]]
        came, _ = script(trial, ops)
        self.orders = {epoch: ids(came, f"{epoch}") for epoch in epochs}
        for epoch, found in self.orders.items():
            require_permutation(found, self.length, f"set_epoch({epoch}), list(sampler)")

    def require(
        self, came: Evidence, label: str, epoch: int, position: int, done: str, cause: str
    ) -> None:
        """An iteration must yield epoch's order from ``position`` on."""
        want, got = self.orders[epoch][position:], ids(came, label)
        if got == want:
            return
        if position and (
            sorted(got) == sorted(want) or (cause == "advance" and len(got) == len(want))
        ):
            cause = "reshuffled"
        again = set(got) & set(self.orders[epoch][:position])
        never = set(want) - set(got)
        raise Wrong(
            f"Of {self.length} samples: {done}. {len(want)} are left, and iterating yields "
            f"{len(got)}: {len(again)} of them already trained on, and {len(never)} of those left "
            "are not among them.",
            cause,
        )

    def require_len(self, came: Evidence, label: str, want: int, done: str) -> None:
        got = number(came, label)
        if got != want:
            cause = "len_whole" if got == self.length else "len_stale"
            raise Wrong(
                f"Of {self.length} samples: {done}. len() is to be {want}, is {got}.", cause
            )


@decides("off_by_one.goes_on")
def goes_on(trial: Trial) -> str:
    # Epoch 0 is where "if not epoch" goes wrong.
    for epoch in (int(trial.rng.integers(2, 7)), 0):
        _one_epoch(trial, epoch)
    _other_length(trial)
    return "Interrupted twice in an epoch, in epoch 0 too: what is left is what was not trained on."


def _one_epoch(trial: Trial, epoch: int) -> None:
    walk = Walk(trial, [epoch, epoch + 1, epoch + 2])
    n, m, k = (int(x) for x in trial.rng.integers(3, 9, 3))
    first = n + n + m  # batches need not be equally large
    ops: Ops = [["new", "a", walk.length, walk.seed], ["set_epoch", "a", epoch]]
    ops += [["advance", "a", n], ["advance", "a", n], ["advance", "a", m]]
    ops += [["length", "a", "len"], ["iterate", "a", "left"], ["iterate", "a", "twice"]]
    ops += [["set_epoch", "a", epoch], ["iterate", "a", "set"], ["save", "a", "1.pt"]]
    came, files = script(trial, ops)
    done = f"epoch {epoch}, advance({n}), advance({n}), advance({m})"
    walk.require(came, "left", epoch, first, done, "advance")
    walk.require_len(came, "len", walk.length - first, done)
    walk.require(came, "twice", epoch, first, f"{done}, list(sampler)", "iterating_moves")
    cause = "set_epoch_resets" if epoch else "epoch_zero"
    walk.require(came, "set", epoch, first, f"{done}, set_epoch({epoch}) again", cause)

    ops = [["new", "b", walk.length, walk.seed + 5], ["load", "b", "1.pt"]]
    ops += [["length", "b", "len"], ["set_epoch", "b", epoch], ["iterate", "b", "left"]]
    ops += [["iterate", "b", "twice"], ["advance", "b", k], ["length", "b", "len 2"]]
    ops += [["iterate", "b", "later"], ["save", "b", "2.pt"]]
    ops += [["set_epoch", "b", epoch + 1], ["iterate", "b", "next"]]
    came, again = script(trial, ops, files)
    done += ", saved; loaded in a new process by a sampler made with another seed"
    _require_seed(walk, came, "left", epoch, first, done)
    told = f"{done}, set_epoch({epoch})"
    walk.require(came, "left", epoch, first, told, "epoch_not_kept" if epoch else "epoch_zero")
    walk.require_len(came, "len", walk.length - first, done)
    walk.require(came, "twice", epoch, first, f"{told}, iterated twice", "skips_once")
    walk.require(came, "later", epoch, first + k, f"{told}, advance({k})", "iterating_moves")
    walk.require_len(came, "len 2", walk.length - first - k, f"{told}, advance({k})")
    _require_seed(walk, came, "next", epoch + 1, 0, f"{done}, set_epoch({epoch + 1})")
    walk.require(came, "next", epoch + 1, 0, f"{done}, set_epoch({epoch + 1})", "new_epoch")

    ops = [["new", "c", walk.length, walk.seed], ["load", "c", "2.pt"], ["set_epoch", "c", epoch]]
    ops += [["iterate", "c", "left"]]
    for number, other in enumerate((epoch + 1, epoch + 2, epoch)):
        ops += [["set_epoch", "c", other], ["iterate", "c", f"new {number}"], ["advance", "c", 5]]
    came, _ = script(trial, ops, again)
    done = f"epoch {epoch}, {first} trained, saved and loaded, {k} more trained, saved and loaded"
    walk.require(came, "left", epoch, first + k, done, "second_save")
    for number, other in enumerate((epoch + 1, epoch + 2, epoch)):
        done = f"set_epoch({other}), another epoch than before"
        walk.require(came, f"new {number}", other, 0, done, "new_epoch")
    _past_the_end(walk, epoch)


def _past_the_end(walk: Walk, epoch: int) -> None:
    """The last batch's padding may count more than was left."""
    ops: Ops = [["new", "a", walk.length, walk.seed], ["set_epoch", "a", epoch]]
    ops += [["advance", "a", walk.length - 3], ["advance", "a", 5], ["length", "a", "len"]]
    ops += [["iterate", "a", "none"], ["set_epoch", "a", epoch], ["iterate", "a", "still"]]
    ops += [["set_epoch", "a", epoch + 1], ["iterate", "a", "next"]]
    done = f"epoch {epoch}, advance({walk.length - 3}), advance(5)"
    try:
        came, _ = script(walk.trial, ops)
    except Failed as failed:
        if "NotImplementedError" in (failed.report.details.get("bases") or []):
            raise
        raise Wrong(
            f"Of {walk.length} samples: {done}. Then {failed.report.stage}: "
            f"{failed.report.details.get('type', failed.report.outcome)}.",
            "past_length",
        ) from None
    walk.require_len(came, "len", 0, done)
    walk.require(came, "none", epoch, walk.length, done, "past_length")
    told = f"{done}, set_epoch({epoch})"
    walk.require(came, "still", epoch, walk.length, told, "complete_epoch")
    walk.require(came, "next", epoch + 1, 0, f"{done}, set_epoch({epoch + 1})", "new_epoch")


def _require_seed(
    walk: Walk, came: Evidence, label: str, epoch: int, position: int, done: str
) -> None:
    """The right number of indices, all different, in an order that is not this seed's."""
    got, want = ids(came, label), walk.orders[epoch][position:]
    if got != want and len(got) == len(want) and sorted(got) != sorted(want) and position:
        overlap = len(set(got) & set(want)) / len(want)
        if overlap < 1:
            raise Wrong(f"{done}: the rest of epoch {epoch} has another order.", "seed_lost")
    if got != want and not position and sorted(got) == sorted(want):
        raise Wrong(f"{done}: that epoch has the order of another seed.", "seed_lost")


def _other_length(trial: Trial) -> None:
    """A state of another length: of more samples, and of fewer, the position within both."""
    length, seed = int(trial.rng.integers(40, 60)), trial.draw_seed()
    more, fewer = length + 9, length - 9
    ops: Ops = [["new", "a", length, seed], ["set_epoch", "a", 1], ["advance", "a", 10]]
    _, files = script(trial, [*ops, ["save", "a", "state.pt"]])
    ops = []
    for other in (more, fewer):
        ops += [["new", f"{other}", other, seed], ["try_load", f"{other}", "state.pt", f"{other}"]]
    came, _ = script(trial, ops, files)
    for other in (more, fewer):
        bases = came.facts[f"{other}"]
        done = f"The state of a sampler of {length}, loaded by one of {other}"
        if not bases:
            raise Wrong(f"{done}: no error.", "length")
        if "CheckpointError" not in bases:
            raise Wrong(f"{done}: expected CheckpointError, came {bases[0]}.", "length_error")


@decides("off_by_one.prefetch")
def prefetch(trial: Trial) -> str:
    """Without workers; then two fetch ahead, and the state must count what was trained on."""
    for workers in (0, 2):
        length, seed = int(trial.rng.integers(50, 70)), trial.draw_seed()
        epoch, batches = int(trial.rng.integers(1, 5)), int(trial.rng.integers(2, 5))
        told = {"length": length, "seed": seed, "epoch": epoch, "workers": workers}
        first = trial.probe(
            "off_by_one_parts.load_batches",
            told | {"batch_size": 4, "batches": batches, "load": False},
        )
        state = {"state.pt": first.files["state.pt"]}
        # Another batch size goes on with exactly the samples that are left.
        second = trial.probe(
            "off_by_one_parts.load_batches",
            told | {"batch_size": 6, "batches": None, "load": True},
            files=state,
        )
        seen = ids(first, "trained") + ids(second, "trained")
        again = sorted({index for index in seen if seen.count(index) > 1})
        never = sorted(set(range(length)) - set(seen))
        if len(ids(first, "trained")) == 4 * batches and not again and not never:
            continue
        raise Wrong(
            f"{length} samples, num_workers={workers}: {batches} batches of 4 trained, saved; "
            f"loaded in a new process, trained to the epoch's end. Samples trained twice: "
            f"{len(again)}; never: {len(never)}.",
            _prefetch_cause(workers, again, never),
        )
    return "With two workers and without: every sample of the epoch trained exactly once."


def _prefetch_cause(workers: int, again: list[int], never: list[int]) -> str:
    if workers:
        return "counts_yielded"
    return "iterator_follows" if never and not again else "advance"
