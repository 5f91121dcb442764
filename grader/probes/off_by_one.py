"""Incident 04: a training script with one resume(...) at its top, killed and started again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from workbench.faults import kill_now

from grader.child import Context, pack, probe
from grader.probes.off_by_one_parts import best_bytes, fields
from grader.probes.training import (
    Run,
    build,
    generator_draws,
    model_tensors,
    noisy,
    optimizer_tensors,
)

RESUME = "resume(path, model=…, optimizer=…, scheduler=…, progress=…, sampler=…)"
SAVE = "save_checkpoint(path, …, progress=…, sampler=…)"
FILE = "run.pt"


def train_step(run: Run, x: Tensor, y: Tensor) -> float:
    """One optimizer step, with noise from three generators; the learning rate that it used."""
    run.optimizer.zero_grad()
    F.cross_entropy(run.model(noisy(x)), y).backward()
    lr = run.optimizer.param_groups[0]["lr"]
    run.optimizer.step()
    return lr


@torch.no_grad()
def validate(run: Run, x: Tensor, y: Tensor) -> float:
    """Mean loss in eval mode. Draws nothing."""
    run.model.eval()
    loss = F.cross_entropy(run.model(x), y).item()
    run.model.train()
    return loss


def step_schedule(run: Run, loss: float | None) -> None:
    """After an epoch, with its loss."""
    if isinstance(run.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        run.scheduler.step(loss)
    elif run.scheduler is not None:
        run.scheduler.step()


def snapshot(run: Run, prefix: str) -> dict[str, Tensor]:
    """Weights, optimizer state and learning rates, as they are now."""
    rates = [group["lr"] for group in run.optimizer.param_groups]
    return (
        model_tensors(run.model, f"{prefix}/model")
        | optimizer_tensors(run.optimizer, f"{prefix}/optimizer")
        | {f"{prefix}/lr": torch.tensor(rates, dtype=torch.float64)}
    )


class Script:
    """A user's script, from its first line to its end, or to the kill."""

    def __init__(self, context: Context) -> None:
        self.context, arguments = context, context.args
        self.module, self.checkpoint = context.module("resume"), context.module("checkpoint")
        self.run = build(arguments["spec"], arguments["seed"], other=arguments["other"])
        self.run.model.train()
        self.progress = context.call(self.module, "Progress", said="Progress()")
        self.sampler = context.call(
            self.module,
            "ResumableSampler",
            len(context.tensors["x"]),
            seed=arguments["sampler_seed"],
            said="ResumableSampler(…)",
        )
        self.parts = {
            "model": self.run.model,
            "optimizer": self.run.optimizer,
            "scheduler": self.run.scheduler,
            "progress": self.progress,
            "sampler": self.sampler,
        }
        self.steps = arguments["steps_before"]
        self.left = arguments["kill_after"]  # events until the kill; None: run to the end

    def start(self) -> None:
        returned = self.context.call(self.module, "resume", FILE, **self.parts, said=RESUME)
        loaded = snapshot(self.run, "loaded") | {"best": best_bytes(self.progress)}
        Path("loaded.safetensors").write_bytes(pack(loaded))
        self.record(returned=repr(returned)[:80], fields=fields(self.progress))
        self.context.stage("the training loop after resume(…)")

    def train(self) -> None:
        arguments, x, y = self.context.args, self.context.tensors["x"], self.context.tensors["y"]
        per_step = arguments["per_step"]
        loader = DataLoader(
            TensorDataset(torch.arange(len(x)), x, y),
            batch_size=arguments["batch_size"],
            sampler=self.sampler,
            generator=torch.Generator(),
        )
        for epoch in range(self.progress.next_epoch, arguments["epochs"]):
            self.sampler.set_epoch(epoch)
            for rows, inputs, labels in loader:
                lr = train_step(self.run, inputs, labels)
                if per_step:
                    step_schedule(self.run, None)
                self.sampler.advance(len(rows))
                self.progress.end_batch()
                self.record(epoch=epoch, rows=rows.tolist(), lr=lr)
                self.steps += 1
                self.event(self.steps % arguments["save_every"] == 0)
            loss = validate(self.run, x, y)
            if not per_step:
                step_schedule(self.run, loss)
            self.progress.update_best(loss)
            self.progress.end_epoch()
            self.record(completed=epoch)
            self.event(True)

    def record(self, **what: Any) -> None:
        with Path("trail.jsonl").open("a") as trail:
            print(json.dumps(what), file=trail)

    def event(self, save: bool) -> None:
        """Save if it is time to; end as ``kill -9`` does if it is time for that."""
        if save:
            self.context.call(
                self.checkpoint,
                "save_checkpoint",
                FILE,
                **self.parts,
                epoch=self.progress.epoch,
                loss=0.0,
                said=SAVE,
            )
            self.context.stage("the training loop after resume(…)")
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                self.record(killed=True)
                kill_now()


@probe
def segment(context: Context):
    """(A, B) The script: resume, train, save; killed after an event, or run to its end."""
    script = Script(context)
    script.start()
    script.train()
    tensors = snapshot(script.run, "end") | {"end/best": best_bytes(script.progress)}
    tensors |= {f"end/draws/{name}": draw for name, draw in generator_draws().items()}
    tensors["end/fields"] = torch.tensor(fields(script.progress))
    return {}, tensors


@probe
def orders(context: Context):
    """(A) Each run's epochs as the sampler orders them, in a process that trains nothing."""
    module = context.module("resume")
    tensors = {}
    for name, (length, seed, epochs) in context.args["runs"].items():
        said = "ResumableSampler(…)"
        sampler = context.call(module, "ResumableSampler", length, seed=seed, said=said)
        rows = []
        for epoch in range(epochs):
            context.stage(f"set_epoch({epoch}), list(sampler)")
            sampler.set_epoch(epoch)
            rows.append([int(index) for index in sampler])
        tensors[name] = torch.tensor(rows)
    return {}, tensors


@probe
def uninterrupted(context: Context):
    """(C) Trusted: each run as if nobody had killed it.

    ``starts``: the number of events after which each further process goes on; from there the
    data is that process's. What a resume had to bring back is under ``<run>/<process>``.
    """
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, told in context.args["runs"].items():
        truth = _Truth(context, name, told)
        truth.train(context.tensors[f"{name}/order"])
        tensors |= {f"{name}/{key}": tensor for key, tensor in truth.tensors.items()}
        facts[name] = {"lrs": truth.lrs, "bests": truth.bests, "best": truth.best.hex()}
    return facts, tensors


class _Truth:
    """One run without an interruption."""

    def __init__(self, context: Context, name: str, told: dict[str, Any]) -> None:
        self.told, self.starts = told, told["starts"]
        self.data = [
            (context.tensors[f"{name}/x{n}"], context.tensors[f"{name}/y{n}"])
            for n in range(len(self.starts) + 1)
        ]
        self.run = build(told["spec"], told["seed"])
        self.run.model.train()
        self.events, self.process, self.best = 0, 0, float("inf")
        self.lrs: list[float] = []
        self.bests: list[str] = []
        self.tensors: dict[str, Tensor] = {}

    def train(self, order: Tensor) -> None:
        per_step = self.told["per_step"]
        self.pass_starts()
        for epoch in range(self.told["epochs"]):
            for rows in order[epoch].split(self.told["batch_size"]):
                x, y = self.data[self.process]
                self.lrs.append(train_step(self.run, x[rows], y[rows]))
                if per_step:
                    step_schedule(self.run, None)
                self.events += 1
                self.pass_starts()
            loss = validate(self.run, *self.data[self.process])
            if not per_step:
                step_schedule(self.run, loss)
            self.best = min(self.best, loss)
            self.events += 1
            self.pass_starts()
        self.tensors |= snapshot(self.run, "end")
        self.tensors |= {f"end/draws/{n}": draw for n, draw in generator_draws().items()}

    def pass_starts(self) -> None:
        """Where a process goes on, record what its resume must bring back; take its data."""
        while self.process < len(self.starts) and self.starts[self.process] == self.events:
            self.process += 1
            self.tensors |= snapshot(self.run, f"{self.process}/loaded")
            self.bests.append(self.best.hex())
