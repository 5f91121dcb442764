"""Incident 04: ResumableSampler, its order, its position, its ranks."""

from __future__ import annotations

from typing import Any

from grader.checks.off_by_one_resume import require_other_world
from grader.evidence import Evidence, differing, names
from grader.judge import Trial, Wrong, decides

Ops = list[list[Any]]


def ids(evidence: Evidence, label: str) -> list[int]:
    """What an iteration yielded."""
    return evidence.tensors[label].array().tolist()


def number(evidence: Evidence, label: str) -> int:
    return int(evidence.tensors[label].array())


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
    ops += [["iterate", "a", "again"]]
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
        if sorted(got) == sorted(want) and position:
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
    ops += [["iterate", "c", "left"], ["advance", "c", walk.length], ["length", "c", "len"]]
    ops += [["iterate", "c", "none"], ["set_epoch", "c", epoch], ["iterate", "c", "still"]]
    for number, other in enumerate((epoch + 1, epoch + 2, epoch)):
        ops += [["set_epoch", "c", other], ["iterate", "c", f"new {number}"], ["advance", "c", 5]]
    came, _ = script(trial, ops, again)
    done = f"epoch {epoch}, {first} trained, saved and loaded, {k} more trained, saved and loaded"
    walk.require(came, "left", epoch, first + k, done, "second_save")
    done += ", advance() past the end"
    walk.require_len(came, "len", 0, done)
    walk.require(came, "none", epoch, walk.length, done, "past_length")
    walk.require(came, "still", epoch, walk.length, f"{done}, set_epoch({epoch})", "complete_epoch")
    for number, other in enumerate((epoch + 1, epoch + 2, epoch)):
        done = f"advance(), then set_epoch({other}), another epoch than before"
        walk.require(came, f"new {number}", other, 0, done, "new_epoch")


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
    """Two workers fetch ahead; the state must count what was trained on. Then without workers."""
    for workers in (2, 0):
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
        # Trained in one go, the order of the rest would have come.
        raise Wrong(
            f"{length} samples, num_workers={workers}: {batches} batches of 4 trained, saved; "
            f"loaded in a new process, trained to the epoch's end. Samples trained twice: "
            f"{len(again)}; never: {len(never)}.",
            _prefetch_cause(workers, again, never),
        )
    return "With two workers and without: every sample of the epoch trained exactly once."


def _prefetch_cause(workers: int, again: list[int], never: list[int]) -> str:
    if not workers:
        return "iterator_follows" if never else "advance"
    return "counts_yielded" if never or again else "advance"


@decides("off_by_one.ranks")
def ranks(trial: Trial) -> str:
    # (length, ranks, trained before): nothing left over, some, one sample for four ranks, 2 for 5.
    base = 4 * int(trial.rng.integers(4, 9))
    cases = [(base, 2, 8), (base, 4, 8), (10, 4, 0), (9, 4, 8), (2, 5, 0), (11, 4, 4)]
    for length, world_size, trained in (cases[int(i)] for i in trial.rng.permutation(len(cases))):
        _one_world(trial, length, world_size, trained)
    _state_of_rank_0(trial)
    return "2 to 5 ranks: equally many each, together what is left, padded where it must be."


def _one_world(trial: Trial, length: int, world_size: int, trained: int) -> None:
    epoch, seed = int(trial.rng.integers(1, 5)), trial.draw_seed()
    ops: Ops = []
    for rank in range(world_size):
        name = f"{rank}"
        ops += [["new", name, length, seed, rank, world_size], ["set_epoch", name, epoch]]
        ops += [["iterate", name, f"whole {rank}"], ["advance", name, trained]]
        ops += [["iterate", name, f"left {rank}"], ["length", name, f"len {rank}"]]
        # The whole epoch counted with its padding, then the next.
        ops += [["advance", name, length + world_size], ["set_epoch", name, epoch + 1]]
        ops += [["iterate", name, f"next {rank}"], ["length", name, f"len next {rank}"]]
    came, _ = script(trial, ops)
    where = f"{length} samples on {world_size} ranks"
    for label, before in (("whole", 0), ("left", trained), ("next", 0)):
        shares = [ids(came, f"{label} {rank}") for rank in range(world_size)]
        done = f"{where}, {before} trained" if before else where
        if label == "next":
            done = f"{where}, the epoch after one that was counted with its padding"
        _require_shares(shares, length, before, done)
        if before:
            # What all ranks took in their first turns was trained on.
            turns = before // world_size
            first = {i for r in range(world_size) for i in ids(came, f"whole {r}")[:turns]}
            every = [index for share in shares for index in share]
            again = [index for index in every if index in first]
            never = set(range(length)) - first - set(every)
            if never or len(again) > -(length - before) % world_size:
                raise Wrong(
                    f"{where}: each rank trained its first {turns}, advance({before}), iterated "
                    f"anew: {len(again)} samples come again, {len(never)} never.",
                    "blocks",
                )
        if label == "whole":
            continue
        told = "len " if label == "left" else "len next "
        for rank, share in enumerate(shares):
            if number(came, f"{told}{rank}") != len(share):
                raise Wrong(
                    f"{done}: rank {rank} yields {len(share)}, and len() is "
                    f"{number(came, f'{told}{rank}')}.",
                    "len_ranks",
                )


def _require_shares(shares: list[list[int]], length: int, before: int, done: str) -> None:
    world_size = len(shares)
    counts = [len(share) for share in shares]
    want = -(-(length - before) // world_size)
    every = [index for share in shares for index in share]
    if shares.count(shares[0]) == world_size and want > 1:
        raise Wrong(f"{done}: every rank yields the same samples.", "rank_ignored")
    if beyond := [index for index in every if not 0 <= index < length]:
        raise Wrong(f"{done}: index {beyond[0]} is not in the data.", "beyond_data")
    if len(set(every)) < length - before and max(counts) < want:
        missing = length - before - len(set(every))
        cause = "per_rank" if missing >= world_size else "tail_dropped"
        raise Wrong(f"{done}: {missing} of those left are yielded by no rank.", cause)
    if counts != [want] * world_size:
        raise Wrong(
            f"{done}: each rank is to yield {want}; they yield {', '.join(map(str, counts))}. "
            "In a process group the longer ones wait for ever.",
            "new_epoch" if "epoch after" in done else "no_padding",
        )
    if (length - before) % world_size == 0 and len(set(every)) != length - before:
        raise Wrong(f"{done}: {len(every)} indices, {len(set(every))} of them different.", "blocks")
    if before == 0 and set(every) != set(range(length)):
        raise Wrong(f"{done}: not all samples are yielded.", "tail_dropped")


def _state_of_rank_0(trial: Trial) -> None:
    """A checkpoint holds rank 0's state, and every rank loads it."""
    length, seed = 4 * int(trial.rng.integers(6, 12)), trial.draw_seed()
    ops: Ops = [["new", "0", length, seed, 0, 2], ["set_epoch", "0", 3], ["advance", "0", 8]]
    saved, files = script(trial, [*ops, ["iterate", "0", "0"], ["save", "0", "state.pt"]])
    ops = [["new", "1", length, seed, 1, 2], ["load", "1", "state.pt"], ["set_epoch", "1", 3]]
    came, _ = script(trial, [*ops, ["iterate", "1", "1"]], files)
    both = ids(saved, "0") + ids(came, "1")
    if set(ids(saved, "0")) & set(ids(came, "1")):
        raise Wrong(
            "Rank 1 loaded the state that rank 0 saved, and yields samples of rank 0.",
            "rank_in_state",
        )
    if len(both) != length - 8:
        raise Wrong(
            f"Rank 1 loaded rank 0's state: {length - 8} are left, both ranks yield {len(both)}.",
            "rank_in_state",
        )


@decides("off_by_one.other_world_size")
def other_world_size(trial: Trial) -> str:
    for before, after in ((4, 2), (2, 4), (4, 1), (1, 2), (4, 3)):
        length, epoch = 12 * int(trial.rng.integers(4, 8)), int(trial.rng.integers(1, 5))
        seed, trained = trial.draw_seed(), 16
        ops: Ops = [["new", "0", length, seed, 0, before], ["set_epoch", "0", epoch]]
        ops += [["advance", "0", trained]]
        for rank in range(before):
            ops += [
                ["new", f"w{rank}", length, seed, rank, before],
                ["set_epoch", f"w{rank}", epoch],
            ]
            ops += [["iterate", f"w{rank}", f"{rank}", trained // before]]
        saved, files = script(trial, [*ops, ["save", "0", "state.pt"]])
        done = {index for rank in range(before) for index in ids(saved, f"{rank}")}
        ops = []
        for rank in range(after):
            ops += [["new", f"{rank}", length, seed, rank, after]]
            ops += [["try_load", f"{rank}", "state.pt", f"{rank}"], ["set_epoch", f"{rank}", epoch]]
            ops += [["iterate", f"{rank}", f"{rank}"]]
        came, _ = script(trial, ops, files)
        _require_exactly_the_rest(came, done, length, before, after)
    require_other_world(trial)
    return "4 → 2, 2 → 4, 4 → 1, 1 → 2, 4 → 3 ranks in the middle of an epoch: nothing lost."


def _require_exactly_the_rest(
    came: Evidence, done: set[int], length: int, before: int, after: int
) -> None:
    told = f"{length} samples: {len(done)} trained on {before} ranks, gone on with {after}"
    if bases := came.facts["0"]:
        raise Wrong(f"{told}: load_state_dict raised {bases[0]}.", "world_refused")
    shares = [ids(came, f"{rank}") for rank in range(after)]
    every = [index for share in shares for index in share]
    padding = -(length - len(done)) % after
    never = set(range(length)) - done - set(every)
    again = [index for index in every if index in done]
    if never or len(again) > padding or len(every) != length - len(done) + padding:
        raise Wrong(
            f"{told}: {len(again)} of the trained ones come again (padding explains {padding}), "
            f"and {len(never)} are never trained on.",
            "world_size",
        )
