"""For notebook 04: its runs once more, with the learner's package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from grader.child import Context, probe
from grader.probes.off_by_one import RESUME, SAVE

BATCH = 50


class _Killed(Exception):
    """Stands for the kill: nothing of the script's objects is used afterwards."""


class _Run:
    """The notebook's script, with one resume(...) at its top. Saves after every step."""

    def __init__(self, context: Context, path: str, epochs: int) -> None:
        self.context, self.path, self.epochs = context, path, epochs
        self.lrs: dict[int, list[float]] = {}  # epoch -> the rates that its steps used
        self.steps = 0  # over all starts
        self.model: Any = None

    def start(self, seed: int, kill_at: int | None) -> None:
        """Run the script from its first line, to the end or to optimizer step ``kill_at``."""
        from workbench import MLP, digits, evaluate
        from workbench.moments import seed_generators

        module, data = self.context.module("resume"), digits()
        seed_generators(seed)
        self.model = MLP(64, 128, 128, 10, dropout=0.1)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        parts = {
            "model": self.model,
            "optimizer": optimizer,
            "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs),
            "progress": self.context.call(module, "Progress", said="Progress()"),
            "sampler": self.context.call(
                module, "ResumableSampler", len(data.train_x), seed=0, said="ResumableSampler(…)"
            ),
        }
        progress, sampler = parts["progress"], parts["sampler"]
        loader = DataLoader(
            TensorDataset(data.train_x, data.train_y),
            BATCH,
            sampler=sampler,
            generator=torch.Generator(),
        )
        self.context.call(module, "resume", self.path, **parts, said=RESUME)
        self.context.stage("the training loop after resume(…)")
        for epoch in range(progress.next_epoch, self.epochs):
            sampler.set_epoch(epoch)
            for x, y in loader:
                self._step(epoch, optimizer, x, y)
                sampler.advance(len(x))
                progress.end_batch()
                self._save(parts)
                if self.steps == kill_at:
                    raise _Killed
            parts["scheduler"].step()
            progress.update_best(evaluate(self.model, data.val_x, data.val_y)[0])
            progress.end_epoch()
            self._save(parts)

    def _step(self, epoch: int, optimizer: Any, x: Any, y: Any) -> None:
        from workbench import train_step
        from workbench.training import augment

        self.steps += 1
        self.lrs.setdefault(epoch, []).append(optimizer.param_groups[0]["lr"])
        if self.steps > 2000:
            raise RuntimeError("far more steps than the run has; it does not end")
        train_step(self.model, optimizer, augment(x), y)

    def _save(self, parts: dict[str, Any]) -> None:
        module = self.context.module("checkpoint")
        told = {"epoch": parts["progress"].epoch, "loss": 0.0}
        self.context.call(module, "save_checkpoint", self.path, **parts, **told, said=SAVE)


@probe
def schedule(context: Context):
    """The run of section 3, once in one go and once killed after each of ``kills`` steps."""
    from workbench import fingerprint

    facts: dict[str, Any] = {}
    for name, kills in (("uninterrupted", []), ("killed", context.args["kills"])):
        run = _Run(context, f"{name}.pt", context.args["epochs"])
        for number, kill in enumerate([*kills, None]):
            try:
                run.start(seed=100 * number, kill_at=kill)
            except _Killed:
                continue
        facts[name] = {
            "epochs": sorted(run.lrs),
            "lr": [sorted(set(run.lrs[epoch])) for epoch in sorted(run.lrs)],
            "steps": run.steps,
            "fingerprint": fingerprint(run.model),
        }
    return facts


def _pass(context: Context, state: str | None, batches: int | None, **how: Any) -> list[int]:
    """Go on from the saved state for some batches, or to the epoch's end; the samples trained."""
    length, size, ranks = context.args["length"], how["batch"], how["ranks"]
    module = context.module("resume")
    trained: list[list[int]] = []
    states = []
    for rank in range(ranks):
        sampler = context.call(
            module,
            "ResumableSampler",
            length,
            seed=0,
            rank=rank,
            world_size=ranks,
            said="ResumableSampler(…)",
        )
        if state:
            sampler.load_state_dict(torch.load(state))
        sampler.set_epoch(3)
        workers = how["workers"] if rank == 0 else 0
        loader = DataLoader(range(length), size, sampler=sampler, num_workers=workers)
        mine = []
        for number, batch in enumerate(loader, start=1):
            mine.append(batch.tolist())
            sampler.advance(len(batch) * ranks)
            if number == batches:
                break
        states.append(sampler.state_dict())
        trained.append([sample for batch in mine for sample in batch])
    torch.save(states[0], "sampler.pt")  # a checkpoint holds rank 0's
    # Turn by turn, as the ranks train side by side.
    return [sample for turn in zip(*trained, strict=True) for sample in turn]


@probe
def samples(context: Context):
    """Epoch 3 of ``length`` samples, interrupted in three ways: what each pass trained on."""
    one = {"batch": 5, "ranks": 1, "workers": 2}
    plans = {
        "killed once": [(10, one), (None, one)],
        "killed twice, other batch size": [(6, one), (4, one), (None, one | {"batch": 3})],
        "4 ranks, gone on with 2": [
            (2, {"batch": 5, "ranks": 4, "workers": 0}),
            (None, {"batch": 5, "ranks": 2, "workers": 0}),
        ],
    }
    passes = {}
    for name, plan in plans.items():
        Path("sampler.pt").unlink(missing_ok=True)
        passes[name] = [
            _pass(context, "sampler.pt" if number else None, batches, **how)
            for number, (batches, how) in enumerate(plan)
        ]
    return {"passes": passes}
