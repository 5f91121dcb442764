"""What ranks do to one file. Runs under torchrun; ``workbench.launch.torchrun`` starts it.

    torchrun --nproc-per-node 2 -m workbench.race OUT.json race early swallowed masks names

Each word is an experiment; rank 0 writes what they measured to OUT.json, files go beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from workbench.models import MLP
from workbench.training import train_step

SAVES = 20
TIMEOUT = 2.0  # seconds; torch's default is half an hour


def checkpoint(rank: int, *, equal: bool) -> dict[str, Any]:
    """A checkpoint of 15.9 MB with two things of this rank's own: a tensor, and a loss history.

    The history's length differs by rank unless ``equal``, and with it the place of every record.
    """
    torch.manual_seed(0)
    model = MLP(256, 1024, 1024, 10)
    optimizer = torch.optim.AdamW(model.parameters())
    train_step(model, optimizer, torch.ones(4, 256), torch.zeros(4, dtype=torch.int64))
    history = [0.5 + rank] * (2000 if equal else 2000 + 500 * rank)
    return {
        "rank": rank,
        "history": history,
        "weights": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "masks": torch.full((100_000,), float(rank)),
    }


def judge(path: Path, truth: dict[str, Any]) -> str:
    """What became of a file that several ranks wrote: an error's type and text, or whose it is."""
    try:
        loaded = torch.load(path)
    except Exception as error:
        return f"does not load: {type(error).__name__}: {short(error)}"
    same = all(torch.equal(loaded["weights"][n], t) for n, t in truth["weights"].items())
    owners = {float(loaded["rank"]), *loaded["masks"].unique().tolist()}
    if not same:
        return "loads: the weights are other numbers"
    return "loads: one rank's file" if len(owners) == 1 else "loads: ranks mixed"


def short(error: Exception) -> str:
    """The first sentence of an error, without paths."""
    text = str(error).splitlines()[0].split(": ")[-1].split(". ")[0]
    return " ".join(word for word in text.split() if "/" not in word)[:60]


class Writes:
    """Records when this process wrote which part of a file through torch.save."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float, int]] = []  # begin, end, bytes
        spans, base = self.spans, torch._C.PyTorchFileWriter

        class Writer(base):
            def write_record(self, name: str, data: Any, size: int) -> None:
                begin = time.time()
                super().write_record(name, data, size)
                spans.append((begin, time.time(), size))

        self._base, self._writer = base, Writer

    def __enter__(self) -> Writes:
        torch._C.PyTorchFileWriter = self._writer
        return self

    def __exit__(self, *_: object) -> None:
        torch._C.PyTorchFileWriter = self._base


def gathered(value: Any) -> list[Any]:
    """Every rank's value, by rank, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def race(folder: Path, writes: Callable[[], bool] = lambda: True, *, equal: bool = False) -> Any:
    """20 saves by all ranks for which ``writes()`` holds; what became of each, and a timeline."""
    rank = dist.get_rank()
    content = checkpoint(rank, equal=equal)
    outcomes, timeline = [], []
    for number in range(SAVES):
        path = folder / f"save-{number}.pt"
        dist.barrier()
        with Writes() as recorded:
            if writes():
                torch.save(content, path)
        dist.barrier()
        spans = gathered(recorded.spans)
        outcome = judge(path, content) if rank == 0 else ""
        if rank == 0:
            path.unlink()
        outcomes.append(outcome)
        timeline.append(spans)
    bad = next((n for n, outcome in enumerate(outcomes) if "one rank" not in outcome), 0)
    return {"outcomes": Counter(outcomes), "timeline": timeline[bad], "of": outcomes[bad]}


def early(folder: Path) -> Any:
    """Rank 0 saves over the checkpoint of epoch 0, and nobody waits: what rank 1 then reads.

    Half of the time rank 0 is busy and begins late; half of the time rank 1 does."""
    seen = Counter()
    content = checkpoint(0, equal=True)
    for number in range(SAVES):
        path = folder / f"early-{number}.pt"
        if dist.get_rank() == 0 and number % 2:
            torch.save(content | {"epoch": 0}, path)
        dist.barrier()
        outcome = "read the new file"
        if dist.get_rank() == number // 2 % 2:
            time.sleep((0.02, 0.004)[dist.get_rank()])  # a whole save takes 10 to 20 ms
        if dist.get_rank() == 0:
            torch.save(content | {"epoch": 1}, path)
        elif dist.get_rank() == 1:
            try:
                if torch.load(path)["epoch"] == 0:
                    outcome = "read the file of the epoch before"
            except FileNotFoundError:
                outcome = "FileNotFoundError"
            except Exception as error:
                outcome = f"does not load: {type(error).__name__}"
        if dist.get_rank() == 1:
            seen[outcome] += 1
        dist.barrier()
        if dist.get_rank() == 0:
            path.unlink()
    return gathered(seen)[1]


def swallowed(folder: Path) -> Any:
    """Rank 0 cannot write. Logged and swallowed, against told to all: what rank 1 sees."""
    facts = {}
    for name in ("swallowed", "told to all"):
        ranks = dist.new_group(timeout=timedelta(seconds=TIMEOUT))
        error, begin = None, time.time()
        if dist.get_rank() == 0:
            try:
                torch.save({}, folder / "no" / "such" / "directory" / "run.pt")
            except RuntimeError as caught:
                error = f"{type(caught).__name__}: {short(caught)}"
        try:
            if name == "told to all":
                box = [error]
                dist.broadcast_object_list(box, src=0, group=ranks)
                if box[0]:
                    raise RuntimeError(f"rank 0 could not save: {box[0]}")
            elif error is None:  # rank 0 has logged its error and gone on
                dist.barrier(group=ranks)
            saw = "nothing: it went on"
        except RuntimeError as caught:
            saw = "a timeout" if "imed out" in str(caught) else str(caught)
        waited = time.time() - begin
        facts[name] = gathered({"saw": saw, "seconds": waited})
    return facts


def masks(folder: Path) -> Any:
    """How much of two ranks' dropout masks agrees: rank 0's state everywhere, and each its own."""
    del folder
    torch.manual_seed(1000 + dist.get_rank())
    states = gathered(torch.get_rng_state())
    facts = {}
    for name in ("never interrupted", "rank 0's restored everywhere", "each its own restored"):
        if name != "never interrupted":
            torch.manual_seed(7)
            everywhere = name.startswith("rank 0")
            torch.set_rng_state(states[0 if everywhere else dist.get_rank()])
        mask = torch.nn.functional.dropout(torch.ones(20_000)) > 0
        all_masks = gathered(mask)
        agree = (all_masks[0] == all_masks[1]).float().mean().item()
        facts[name] = {"agree": agree, "kept": [int(m.sum()) for m in all_masks]}
        facts[name]["first 32 of each"] = ["".join("·█"[v] for v in m[:32]) for m in all_masks]
    return facts


def names(folder: Path) -> Any:
    """The names of a wrapped model's state dict, saved as it is."""
    wrapped = DistributedDataParallel(MLP())
    if dist.get_rank() == 0:
        torch.save(wrapped.state_dict(), folder / "wrapped.pt")
    return list(wrapped.state_dict())


EXPERIMENTS: dict[str, Callable[[Path], Any]] = {
    "race": race,
    "equal": lambda folder: race(folder, equal=True),
    "nodes": lambda folder: race(folder, lambda: dist.get_rank() % 2 == 0),  # two of each node
    "early": early,
    "swallowed": swallowed,
    "masks": masks,
    "names": names,
}


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    out = Path(sys.argv[1])
    folder = out.parent / f"files-{os.getppid()}"
    folder.mkdir(exist_ok=True)
    measured = {name: EXPERIMENTS[name](folder) for name in sys.argv[2:]}
    dist.barrier()
    if dist.get_rank() == 0:
        if (folder / "wrapped.pt").exists():
            (folder / "wrapped.pt").replace(out.with_name("wrapped.pt"))
        shutil.rmtree(folder)
        out.write_text(json.dumps(measured))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
