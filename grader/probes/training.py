"""A small training run in which everything that can be lost would be missed.

Batch norm and dropout, two parameter groups, a frozen layer, more than ten parameters (sorted as
text, "10" comes before "2"), a schedule that moves every step, and inputs that take noise from
Python's, NumPy's and torch's generators. What a check does not want in play it turns off.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

WIDTH, CLASSES = 6, 4


class Stack(nn.Module):
    """(B, 6) to (B, 4): twelve small layers, the first of them frozen."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(WIDTH, WIDTH)]
        for _ in range(4):
            layers += [nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh()]
        layers += [nn.Dropout(dropout), nn.Linear(WIDTH, CLASSES)]
        self.layers = nn.Sequential(*layers)
        self.layers[0].requires_grad_(False)
        # Not in state_dict(), so not in a checkpoint.
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class DrawingStepLR(torch.optim.lr_scheduler.StepLR):
    """A schedule that draws random numbers while it loads."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        random.random(), np.random.randn(), torch.rand(1)
        super().load_state_dict(state_dict)


@dataclass
class Run:
    """The objects of a run, and what was recorded of it."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: Any
    noise: bool
    per_step_loss: list[float] = field(default_factory=list)
    lrs: list[list[float]] = field(default_factory=list)
    trail: dict[str, Tensor] = field(default_factory=dict)


def build(spec: dict[str, Any], seed: int, *, other: bool = False) -> Run:
    """Model, optimizer and schedule from ``spec``, initialised from ``seed``.

    ``other``: the same kind of optimizer with other hyperparameters, as a fresh script might
    have; a checkpoint must bring back the ones that were trained with.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # see child._settle
    model = Stack(spec.get("dropout", 0.3))
    if spec.get("odd"):  # two names for one weight, and 64 bits a number
        model.layers[4].weight = model.layers[1].weight
        model.double()
    scale = spec.get("other_lr_scale", 3.0) if other else 1.0
    # The frozen ones too: were they thawed on the way, they would be trained, and it would show.
    parameters = list(model.parameters())
    groups = [
        {"params": parameters[:7], "lr": spec["lr"] * scale, "weight_decay": 0.01},
        {"params": parameters[7:], "lr": spec["lr"] * scale * 0.5},
    ]
    for group in groups:
        # A key of the caller's own, as layer-wise schemes put there: part of the group's state.
        group["grad_scale"] = 1.0 if scale != 1 else 0.5
    if spec["optimizer"] == "sgd":
        momentum = spec.get("momentum", 0.9) * (0.5 if other and scale != 1 else 1.0)
        optimizer: Optimizer = torch.optim.SGD(groups, lr=spec["lr"], momentum=momentum)
    elif spec["optimizer"] == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=spec["lr"], amsgrad=spec.get("amsgrad", False))
    else:
        optimizer = torch.optim.RMSprop(groups, lr=spec["lr"], momentum=0.5)
    return Run(model, optimizer, _schedule(spec, optimizer), spec.get("noise", True))


def _schedule(spec: dict[str, Any], optimizer: Optimizer) -> Any:
    schedule = spec["schedule"]
    if schedule == "none":
        return None
    if schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
    if schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    if schedule == "exponential":
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    if schedule == "lambda":  # reads its own base_lrs, unlike those that go on from the last rate
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    if schedule == "drawing":
        return DrawingStepLR(optimizer, step_size=3, gamma=0.6)
    if schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.7)
    if schedule == "onecycle":
        lrs = [group["lr"] for group in optimizer.param_groups]
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lrs, total_steps=60)
    return torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.6)


def set_mode(model: nn.Module, training: bool) -> None:
    """Train or eval mode, with one batch norm frozen in eval mode, as fine-tuning does."""
    model.train(training)
    model.layers[2].eval()


def draw_when_loaded(model: nn.Module) -> None:
    """Let the model draw from every generator while its state is loaded, as some modules do."""

    def draw(*_: Any) -> None:
        random.random(), np.random.randn(), torch.rand(1)

    model.register_load_state_dict_post_hook(draw)


def noisy(x: Tensor) -> Tensor:
    """Draws from three generators. One NumPy Gaussian at a time: its spare one is cached."""
    x = x + 0.1 * random.gauss(0, 1) + 0.1 * float(np.random.randn())
    return x + 0.1 * torch.randn(x.shape)


def train(run: Run, x: Tensor, y: Tensor, *, label: str = "", snapshots: bool = True) -> None:
    """One optimizer step per batch: ``x`` is (steps, B, 6), ``y`` (steps, B). Sets no mode.

    Records loss and learning rates, and under ``<label>step<n>/`` the model after step n.
    """
    for number, (inputs, labels) in enumerate(zip(x, y, strict=True), start=1):
        if run.noise:
            inputs = noisy(inputs)
        inputs = inputs.to(next(run.model.parameters()).dtype)
        run.optimizer.zero_grad()
        loss = F.cross_entropy(run.model(inputs), labels)
        loss.backward()
        for group in run.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(group.get("grad_scale", 1.0))
        run.lrs.append([group["lr"] for group in run.optimizer.param_groups])
        run.optimizer.step()
        if isinstance(run.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            run.scheduler.step(loss.item())
        elif isinstance(run.scheduler, LRScheduler):
            run.scheduler.step()
        run.per_step_loss.append(loss.item())
        if snapshots:
            run.trail |= model_tensors(run.model, f"{label}step{number}")


def model_tensors(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Parameters and buffers, cloned, as ``prefix/name``."""
    return {f"{prefix}/{name}": t.detach().clone() for name, t in model.state_dict().items()}


def optimizer_tensors(optimizer: Optimizer, prefix: str) -> dict[str, Tensor]:
    """The optimizer's state, cloned, as ``prefix/<parameter's position>/<key>``."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{prefix}/{position}/{key}": torch.as_tensor(value).detach().clone()
        for position, parameter in enumerate(parameters)
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor | int | float)
    }


def generator_draws() -> dict[str, Tensor]:
    """What each global generator would draw next. This moves them: call it last."""
    draws = {
        "python": torch.tensor([random.random(), random.gauss(0, 1)], dtype=torch.float64),
        "numpy": torch.from_numpy(np.append(np.random.randn(3), np.random.rand(2))),
        "torch": torch.cat([torch.rand(4), torch.randn(4)]),
    }
    for device in range(torch.cuda.device_count()):
        draws[f"cuda:{device}"] = torch.rand(4, device=f"cuda:{device}").cpu()
    return draws
