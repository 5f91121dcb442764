"""Incident 06: what a checkpoint's size is said to be, what it is, and what asking disturbs."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grader.child import Context, probe
from grader.probes.training import Run, build, generator_draws, model_tensors, optimizer_tensors
from grader.probes.training import train as train_on

MEASURE = "checkpoint_nbytes(model, optimizer)"


class Subject(nn.Module):
    """Two square layers, 2 MB or so in float32, and the one oddity that a case asks for."""

    def __init__(self, width: int, trait: str) -> None:
        super().__init__()
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, width)
        if trait == "buffers":
            self.register_buffer("table", torch.zeros(width, width))
        elif trait == "scratch":
            self.register_buffer("scratch", torch.zeros(width, width), persistent=False)
        elif trait == "tied":
            self.head.weight = self.body.weight
        elif trait == "slice":
            self.register_buffer("position", torch.zeros(width, width)[:10])
        elif trait in ("bfloat16", "float64"):
            self.to(getattr(torch, trait))
        elif trait == "frozen":
            self.body.requires_grad_(False)


def subject(case: dict[str, Any]) -> tuple[nn.Module, Optimizer | None]:
    """Model and optimizer of one case, after as many steps as it says."""
    if case["trait"] == "sparse":
        model: nn.Module = nn.Embedding(2 * case["width"], case["width"], sparse=True)
    elif case["trait"] == "many":  # 1 MB or more, and 7 % of the file is not data
        model = nn.ModuleList(nn.Linear(48, 48) for _ in range(case["width"] // 3))
    else:
        model = Subject(case["width"], case["trait"])
    if "optimizer" not in case:
        return model, None
    held: list[Any] = list(model.parameters())
    if case["trait"] == "head":
        held = list(model.head.parameters())
    elif "groups" in case:
        parts = [model.body, model.head]
        held = [
            {"params": list(part.parameters()), **options}
            for part, options in zip(parts, case["groups"], strict=True)
        ]
    optimizer = getattr(torch.optim, case["optimizer"])(held, **case.get("options", {}))
    for _ in range(case.get("steps", 0)):
        step(optimizer)
    if case["trait"] == "frozen later":
        model.body.requires_grad_(False)
    return model, optimizer


def step(optimizer: Optimizer) -> None:
    """One step of every parameter that requires a gradient."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)
                if isinstance(optimizer, torch.optim.SparseAdam):
                    parameter.grad = parameter.grad.to_sparse()
    optimizer.step()
    optimizer.zero_grad()


def checkpoint(model: nn.Module, optimizer: Optimizer | None) -> dict[str, Any]:
    """What the contract says that a file holds."""
    if optimizer is None:
        return {"model_state_dict": model.state_dict(), "epoch": 1, "step": 1, "metric": 0.5}
    name, keys, *rest = np.random.get_state()
    return {
        "epoch": 1,
        "loss": 0.5,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": None,
        "rng_state": {
            "python": random.getstate(),
            "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
            "torch": torch.get_rng_state(),
            "cuda": [],
        },
    }


@probe
def measure(context: Context):
    """What the learner's function says of each case."""
    module = context.module("storage")
    sizes: dict[str, Any] = {}
    for name, case in context.args["cases"].items():
        model, optimizer = subject(case)
        given = (model,) if optimizer is None else (model, optimizer)
        said = MEASURE if optimizer is not None else "checkpoint_nbytes(model)"
        sizes[name] = int(context.call(module, "checkpoint_nbytes", *given, said=f"{said}, {name}"))
    return {"sizes": sizes}


@probe
def weigh(context: Context):
    """Trusted: take the step, write the file, look at its size; and at that of its parts."""
    sizes, weights = {}, {}
    for name, case in context.args["cases"].items():
        model, optimizer = subject(case)
        if optimizer is not None:
            step(optimizer)
        buffer = io.BytesIO()
        torch.save(checkpoint(model, optimizer), buffer)
        sizes[name] = buffer.tell()
        weights[name] = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return {"sizes": sizes, "weights": weights}


@probe
def run_sizes(context: Context):
    """What the learner's run_nbytes says of each plan."""
    module = context.module("storage")
    model, optimizer = subject(context.args["case"])
    return {
        "sizes": [
            int(context.call(module, "run_nbytes", model, optimizer, **plan))
            for plan in context.args["plans"]
        ]
    }


@probe
def intervals(context: Context):
    """What best_interval returns for each pair, or how it refuses it."""
    module = context.module("storage")
    found: list[Any] = []
    for pair in context.args["pairs"]:
        c, m = (float.fromhex(number) for number in pair)
        said = f"best_interval({c:g}, {m:g})"
        try:
            found.append(float(context.call(module, "best_interval", c, m, said=said)).hex())
        except NotImplementedError:
            raise
        except Exception as error:
            found.append([type(error).__name__, [base.__name__ for base in type(error).__mro__]])
    return {"found": found}


def _between(args: dict[str, Any], tensors: dict[str, Tensor]) -> Run:
    """A run between ``backward`` and ``step``: gradients there, part of the model in eval mode."""
    run = build(args["spec"], args["seed"])
    run.model.train()
    run.model.layers[2].eval()  # a frozen batch norm
    if args["steps"]:
        count = args["steps"]
        train_on(run, tensors["x"][:count], tensors["y"][:count], snapshots=False)
    loss = nn.functional.cross_entropy(run.model(tensors["x"][0]), tensors["y"][0])
    run.optimizer.zero_grad()
    loss.backward()
    return run


def _after(run: Run, tensors: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What there is now, and what the run becomes if it goes on."""
    found = model_tensors(run.model, "model") | optimizer_tensors(run.optimizer, "optimizer")
    for name, parameter in run.model.named_parameters():
        if parameter.grad is not None:
            found[f"gradient/{name}"] = parameter.grad
    found["modes"] = torch.tensor([module.training for module in run.model.modules()])
    found = {name: tensor.detach().clone() for name, tensor in found.items()}
    found |= {f"draws/{name}": draw for name, draw in generator_draws().items()}
    run.optimizer.step()
    train_on(run, tensors["x2"], tensors["y2"], snapshots=False)
    return {}, found | model_tensors(run.model, "end")


@probe
def measured(context: Context):
    """(A) Ask for the size in the middle of a step; then go on."""
    run = _between(context.args, context.tensors)
    module = context.module("storage")
    context.call(module, "checkpoint_nbytes", run.model, run.optimizer, said=MEASURE)
    context.call(module, "checkpoint_nbytes", run.model, said="checkpoint_nbytes(model)")
    context.stage("training on after checkpoint_nbytes")
    return _after(run, context.tensors)


@probe
def never_measured(context: Context):
    """(C) Trusted: the same, and nobody asked."""
    return _after(_between(context.args, context.tensors), context.tensors)
