"""The runs that the notebooks talk about, so that a figure's two curves share every setting."""

from __future__ import annotations

import torch

from workbench.models import MLP
from workbench.moments import Parts, seed_generators

EPOCHS = 20
STEPS_PER_EPOCH = 28  # 1,437 images in batches of 50, the last partial one dropped
RATES = {"SGD": 0.1, "AdamW": 0.01}  # initial learning rates


def digits_run(optimizer: str = "AdamW", seed: int = 0) -> Parts:
    """Model, optimizer and schedule as a script builds them at its start, generators seeded.

    An MLP with dropout; SGD with momentum 0.9, or AdamW; a cosine schedule over 20 epochs that
    moves every step.
    """
    seed_generators(seed)
    model = MLP(64, 128, 128, 10, dropout=0.1)
    if optimizer == "SGD":
        chosen = torch.optim.SGD(model.parameters(), lr=RATES["SGD"], momentum=0.9)
    else:
        chosen = torch.optim.AdamW(model.parameters(), lr=RATES["AdamW"])
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(chosen, T_max=EPOCHS * STEPS_PER_EPOCH)
    return {"model": model, "optimizer": chosen, "scheduler": scheduler}
