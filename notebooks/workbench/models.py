"""Two models, small enough to train in seconds and real enough to have state that matters."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Sequential):
    """Linear layers with ReLU and dropout between them; (N, 1, 8, 8) or (N, 64) to (N, 10)."""

    def __init__(self, *widths: int, dropout: float = 0.1) -> None:
        widths = widths or (64, 128, 128, 10)
        layers: list[nn.Module] = [nn.Flatten()]
        for number, (inputs, outputs) in enumerate(pairwise(widths)):
            if number:
                layers += [nn.ReLU(), nn.Dropout(dropout)]
            layers.append(nn.Linear(inputs, outputs))
        super().__init__(*layers)


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm, around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        return (x + self.bn2(self.conv2(out))).relu()


class Net(nn.Module):
    """A small residual CNN with batch norm and dropout: (N, 1, 8, 8) to (N, 10)."""

    def __init__(self, channels: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.block = Block(channels)
        self.pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.block(self.stem(x)))
        return self.head(self.dropout(x.flatten(1)))
