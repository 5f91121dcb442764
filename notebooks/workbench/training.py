"""The training loop that everything in the course happens to: plain, and readable in a minute."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from workbench.data import Digits, batches


@dataclass
class History:
    """What a run recorded. Steps count optimizer steps in this call of ``train``."""

    loss: list[float] = field(default_factory=list)  # training loss, one per step
    lr: list[float] = field(default_factory=list)  # learning rate that the step used
    epochs: list[int] = field(default_factory=list)  # index of each completed epoch
    val_loss: list[float] = field(default_factory=list)  # one per completed epoch
    val_accuracy: list[float] = field(default_factory=list)  # between 0 and 1


def augment(x: Tensor, noise: float = 0.1) -> Tensor:
    """Shift the images by up to one pixel (Python's generator) and add noise (NumPy's)."""
    x = torch.roll(x, shifts=random.randint(-1, 1), dims=-1)
    return x + noise * torch.as_tensor(np.random.randn(*x.shape), dtype=x.dtype, device=x.device)


def train_step(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> float:
    """One optimizer step on one batch; the loss before the step."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """(mean loss, accuracy) in eval mode. Draws nothing, and puts the mode back."""
    was_training = model.training
    model.eval()
    logits = model(x)
    model.train(was_training)
    return F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


def train(
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: Any,
    data: Digits,
    *,
    epochs: int,
    start_epoch: int = 0,
    batch_size: int = 50,
    seed: int = 0,
    per_step: bool = True,
    augmented: bool = True,
    on_step: Callable[[int], None] | None = None,
    on_epoch_end: Callable[[int, float], None] | None = None,
) -> History:
    """Train epochs ``start_epoch`` to ``epochs - 1``; return what happened.

    ``seed`` orders the data, and nothing else. ``scheduler`` may be None; it steps once a batch,
    or once an epoch with ``per_step=False``. ``on_step(step)`` is called after each optimizer
    step, ``on_epoch_end(epoch, val_loss)`` when an epoch is complete: that is where a checkpoint
    is saved, or a process killed.
    """
    history = History()
    model.train()
    for epoch in range(start_epoch, epochs):
        for x, y in batches(
            data.train_x, data.train_y, batch_size=batch_size, seed=seed, epoch=epoch
        ):
            history.lr.append(optimizer.param_groups[0]["lr"])
            history.loss.append(train_step(model, optimizer, augment(x) if augmented else x, y))
            if scheduler is not None and per_step:
                scheduler.step()
            if on_step is not None:
                on_step(len(history.loss))
        if scheduler is not None and not per_step:
            scheduler.step()
        val_loss, val_accuracy = evaluate(model, data.val_x, data.val_y)
        history.epochs.append(epoch)
        history.val_loss.append(val_loss)
        history.val_accuracy.append(val_accuracy)
        if on_epoch_end is not None:
            on_epoch_end(epoch, val_loss)
    return history
