"""Incident 04: several ranks share what is left of an epoch, and other numbers of ranks go on."""

from __future__ import annotations

from grader.checks.off_by_one_resume import require_other_world
from grader.checks.off_by_one_sampler import Ops, ids, number, script
from grader.evidence import Evidence
from grader.judge import Trial, Wrong, decides


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
        _require_shares(shares, length, before, done, is_next=label == "next")
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


def _require_shares(
    shares: list[list[int]], length: int, before: int, done: str, *, is_next: bool
) -> None:
    world_size = len(shares)
    counts = [len(share) for share in shares]
    want = -(-(length - before) // world_size)
    every = [index for share in shares for index in share]
    if shares[0] and shares.count(shares[0]) == world_size and want > 1:
        raise Wrong(f"{done}: every rank yields the same samples.", "rank_ignored")
    if beyond := [index for index in every if not 0 <= index < length]:
        raise Wrong(f"{done}: index {beyond[0]} is not in the data.", "beyond_data")
    if len(set(every)) < length - before and max(counts) < want:
        missing = length - before - len(set(every))
        if is_next:  # in the whole epoch before, nothing was missing
            cause = "new_epoch"
        elif missing >= world_size:
            cause = "per_rank"
        else:
            cause = "tail_dropped"
        raise Wrong(f"{done}: {missing} of those left are yielded by no rank.", cause)
    if counts != [want] * world_size:
        raise Wrong(
            f"{done}: each rank is to yield {want}; they yield {', '.join(map(str, counts))}. "
            "In a process group the longer ones wait for ever.",
            "new_epoch" if is_next else "no_padding",
        )
    if (length - before) % world_size == 0 and len(set(every)) != length - before:
        raise Wrong(f"{done}: {len(every)} indices, {len(set(every))} of them different.", "blocks")
    if before == 0 and set(every) != set(range(length)):
        raise Wrong(f"{done}: not all samples are yielded, and some more than once.", "blocks")


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
        # What is left divides by every number of ranks here: no padding excuses a repeat.
        seed, trained = trial.draw_seed(), 16
        length = trained + 12 * int(trial.rng.integers(3, 7))
        epoch = int(trial.rng.integers(1, 5))
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
    never = set(range(length)) - done - set(every)
    again = [index for index in every if index in done]
    if never or again or len(every) != length - len(done):
        raise Wrong(
            f"{told}: {len(again)} of the trained ones come again, {len(never)} are never trained "
            f"on, and of {length - len(done)} left {len(every)} are yielded.",
            "world_size",
        )
