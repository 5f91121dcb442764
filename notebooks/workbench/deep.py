"""A deeper model: enough names for one that is lost to go unnoticed."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Two linear layers behind a layer norm, around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Deep(nn.Module):
    """A residual MLP of 163 tensors: (N, 1, 8, 8) or (N, 64) to (N, 10)."""

    def __init__(self, width: int = 32, blocks: int = 26) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.position = nn.Parameter(torch.zeros(width))
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1)) + self.position
        return self.head(self.norm(self.blocks(x)))
