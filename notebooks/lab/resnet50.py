"""ResNet-50, of the usual 25,557,032 parameters: the size of a checkpoint that people know.

He et al., Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385, table 1,
with the stride in the 3 x 3 convolution, as torchvision has it.
"""

from __future__ import annotations

from torch import Tensor, nn


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias, and its batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1, around a shortcut: (N, inputs, H, W) to (N, 4 * width, H/s, W/s)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(convolution(inputs, width, 1), nn.ReLU()),
            *(convolution(width, width, 3, stride), nn.ReLU()),
            convolution(width, 4 * width, 1),
        )
        fits = stride == 1 and inputs == 4 * width
        self.shortcut = nn.Identity() if fits else convolution(inputs, 4 * width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.shortcut(x)).relu()


def resnet50(classes: int = 1000) -> nn.Sequential:
    """(N, 3, H, W) to (N, classes)."""
    layers: list[nn.Module] = [convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
