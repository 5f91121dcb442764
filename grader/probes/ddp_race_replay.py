"""For notebook 03: its race, and a resume on several ranks, with the learner's package."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from grader.child import Context, probe
from grader.probes.ddp_race_ranks import LOAD, SAVE, Group, seed_generators


class History:
    """A rank's own loss history: of another length on each."""

    def __init__(self, rank: int) -> None:
        self.losses = [0.5 + rank] * (2000 + 500 * rank)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}


@probe
def race(context: Context):
    """All ranks call save_checkpoint_ddp on one path, many times; what became of each file."""
    from workbench import MLP, train_step
    from workbench.race import Writes, gathered

    group, module = Group(context), context.module("distributed")
    torch.manual_seed(0)
    model = MLP(256, 1024, 1024, 10)
    optimizer = torch.optim.AdamW(model.parameters())
    train_step(model, optimizer, torch.ones(4, 256), torch.zeros(4, dtype=torch.int64))
    parts = {"model": model, "optimizer": optimizer, "scheduler": None}
    history = History(group.rank)
    outcomes, timeline = Counter(), []
    for epoch in range(context.args["saves"]):
        told = {"epoch": epoch, "loss": 0.5, "history": history}
        with Writes() as recorded:
            context.call(module, "save_checkpoint_ddp", "run.pt", **parts, **told, said=SAVE)
        outcomes[_judge(Path("run.pt"), model, epoch)] += 1
        group.meet(f"judged-{epoch}")
        timeline = gathered(recorded.spans)
    seen = Counter()
    for row in gathered(outcomes):
        seen += row
    group.meet("done")
    return {
        "outcomes": seen,
        "timeline": timeline,
        "left": sorted(p.name for p in Path.cwd().iterdir()),
    }


def _judge(path: Path, model: torch.nn.Module, epoch: int) -> str:
    try:
        saved = torch.load(path)
    except Exception as error:
        return f"does not load: {type(error).__name__}"
    weights = saved["model_state_dict"]
    whole = all(torch.equal(weights[n], t) for n, t in model.state_dict().items())
    mine = saved["history_state_dict"]["losses"] == History(0).losses and saved["epoch"] == epoch
    return "loads: rank 0's file" if whole and mine else "loads: something else"


@probe
def resume(context: Context):
    """Train, save half way, train on; then build everything anew, load, train on: the same bits?

    ``cure`` is "", "unused" (DDP's find_unused_parameters=True) or "warm" (two passes before the
    load).
    """
    from workbench import fingerprint
    from workbench.race import gathered

    group, module = Group(context), context.module("distributed")
    seed_generators(7)  # the data: rank r trains on row r
    data = torch.randn(group.world_size, 12, 16, 64), torch.randint(10, (group.world_size, 12, 16))
    x, y = data[0][group.rank], data[1][group.rank]

    run = _build(context, seed=0)
    seed_generators(100 + group.rank)
    _train(run, x[:6], y[:6])
    context.call(module, "save_checkpoint_ddp", "run.pt", **run, epoch=5, loss=0.5, said=SAVE)
    _train(run, x[6:], y[6:])

    again = _build(context, seed=1)
    if context.args.get("cure") == "warm":
        for _ in range(2):
            torch.nn.functional.cross_entropy(again["model"](x[0]), y[0]).backward()
        again["optimizer"].zero_grad()
    context.call(module, "load_checkpoint_ddp", "run.pt", **again, said=LOAD)
    _train(again, x[6:], y[6:])
    pairs = zip(run["model"].parameters(), again["model"].parameters(), strict=True)
    facts = {
        "uninterrupted": fingerprint(run["model"]),
        "resumed": fingerprint(again["model"]),
        "largest difference": max((a - b).abs().max().item() for a, b in pairs),
    }
    group.meet("done")
    return {**facts, "ranks": len(gathered(None))}


def _build(context: Context, seed: int) -> dict[str, Any]:
    from workbench import MLP

    seed_generators(seed)
    model = DistributedDataParallel(
        MLP(64, 128, 128, 10), find_unused_parameters=context.args.get("cure") == "unused"
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def _train(run: dict[str, Any], x: Tensor, y: Tensor) -> None:
    from workbench import train_step

    for inputs, labels in zip(x, y, strict=True):
        train_step(run["model"], run["optimizer"], inputs, labels)
        run["scheduler"].step()
