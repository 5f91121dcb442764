"""The lab's script in small: ranks that resume, train in DDP, save; one of them is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from workbench.faults import kill_now

from grader.child import Context, probe
from grader.probes.ddp_race_ranks import (
    SAVE,
    Group,
    build,
    draws,
    outcome,
    seed_rank,
    state_tensors,
    wrap,
)
from grader.probes.training import Run, noisy

RESUME = "resume(path, model=…, optimizer=…, scheduler=…, progress=…, sampler=…)"
TRAINING = "the training loop after resume(…)"
FILE = "run.pt"


def train_step(run: Run, x: Tensor, y: Tensor) -> float:
    """One optimizer step, with noise from three generators, and one of the schedule; the loss."""
    run.optimizer.zero_grad()
    loss = F.cross_entropy(run.model(noisy(x)), y)
    loss.backward()
    run.optimizer.step()
    run.scheduler.step()
    return loss.item()


class Script:
    """A user's script on one rank."""

    def __init__(self, context: Context, group: Group) -> None:
        self.context, self.group, args = context, group, context.args
        self.module, self.savers = context.module("resume"), context.module("distributed")
        self.run = build(args["spec"], args["seed"])
        wrap(self.run)
        self.progress = context.call(self.module, "Progress", said="Progress()")
        self.sampler = context.call(
            self.module,
            "ResumableSampler",
            len(context.tensors["x"]),
            seed=args["sampler_seed"],
            rank=group.rank,
            world_size=group.world_size,
            said="ResumableSampler(…)",
        )
        self.parts = {
            "model": self.run.model,
            "optimizer": self.run.optimizer,
            "scheduler": self.run.scheduler,
            "progress": self.progress,
            "sampler": self.sampler,
        }
        seed_rank(args["seed"], group.rank)

    def start(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Resume: what came of it, and what the run then consists of."""
        self.context.stage(RESUME)
        resume = self.module.resume
        fact = outcome(lambda: {"epoch": int(bool(resume(FILE, **self.parts)))})
        fact["step"] = self.progress.step if fact["raised"] is None else None
        return fact, state_tensors(self.run, "loaded")

    def train(self) -> None:
        """To the end, or to the kill."""
        args, x, y = self.context.args, self.context.tensors["x"], self.context.tensors["y"]
        loader = DataLoader(
            TensorDataset(torch.arange(len(x)), x, y),
            args["batch_size"] // self.group.world_size,
            sampler=self.sampler,
            generator=torch.Generator(),
        )
        self.context.stage(TRAINING)
        for epoch in range(self.progress.next_epoch, args["epochs"]):
            self.sampler.set_epoch(epoch)
            for rows, inputs, labels in loader:
                loss = train_step(self.run, inputs, labels)
                self.sampler.advance(len(rows) * self.group.world_size)
                self.progress.end_batch()
                step = self.progress.step
                self.record(step=step, epoch=epoch, rows=rows.tolist(), loss=loss)
                if args["kill"] == [self.group.rank, step]:
                    self.record(killed=True)
                    kill_now()
                if step % args["save_every"] == 0:
                    self.save()
            self.progress.end_epoch()
            self.save()

    def save(self) -> None:
        told = {"epoch": self.progress.epoch, "loss": 0.5}
        self.context.call(self.savers, "save_checkpoint_ddp", FILE, **self.parts, **told, said=SAVE)
        self.context.stage(TRAINING)

    def record(self, **what: Any) -> None:
        with Path(f"trail-{self.group.rank}.jsonl").open("a") as trail:
            print(json.dumps(what), file=trail)


@probe
def segment(context: Context):
    """(A, B) The script on each rank: resume, train, save; ``kill`` is [rank, step] or None."""
    group = Group(context)
    script = Script(context, group)
    fact, tensors = script.start()
    if fact["raised"]:
        group.meet("done")
        return fact, tensors
    try:
        script.train()
    except NotImplementedError:
        raise
    except Exception as error:
        if not context.args["kill"]:
            raise
        # Its peer is dead: whatever it says of that, and however late, is right.
        return fact | {"ended": f"{type(error).__name__}: {error}"[:400]}, tensors
    group.meet("done")
    return fact, tensors | state_tensors(script.run, "end") | draws("end")


@probe
def orders(context: Context):
    """(A) The whole permutation of each epoch, as a sampler for one rank has it."""
    module, tensors = context.module("resume"), {}
    length, seed = context.args["length"], context.args["sampler_seed"]
    sampler = context.call(
        module, "ResumableSampler", length, seed=seed, said="ResumableSampler(…)"
    )
    for epoch in range(context.args["epochs"]):
        context.stage(f"set_epoch({epoch}), list(sampler)")
        sampler.set_epoch(epoch)
        tensors[f"{epoch}"] = torch.tensor([int(index) for index in sampler])
    return {}, tensors


@probe
def uninterrupted(context: Context):
    """(C) Trusted: ranks that nobody kills, on the rows that each trained on.

    ``rows[rank][step]``; up to step ``saved`` the data is x and y, from there on x2 and y2.
    """
    group = Group(context)
    args = context.args
    run = build(args["spec"], args["seed"])
    wrap(run)
    seed_rank(args["seed"], group.rank)
    tensors: dict[str, Tensor] = {}
    for number, rows in enumerate(args["rows"][group.rank]):
        if number == args["saved"]:
            tensors |= state_tensors(run, "loaded")
        suffix = "2" if number >= args["saved"] else ""
        x, y = context.tensors[f"x{suffix}"], context.tensors[f"y{suffix}"]
        train_step(run, x[rows], y[rows])
    if len(args["rows"][group.rank]) == args["saved"]:
        tensors |= state_tensors(run, "loaded")
    tensors |= state_tensors(run, "end") | draws("end")
    everything = group.gather(tensors)
    group.meet("done")
    return {}, everything
