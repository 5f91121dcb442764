"""Models too large for this machine, for their sizes alone: on "meta", which holds no numbers.

with torch.device("meta"):
    model = llama_7b()   # 6.7 billion parameters, no memory
"""

from __future__ import annotations

import torch
from torch import nn


def _bottleneck(inputs: int, width: int) -> list[nn.Module]:
    """ResNet's 1 x 1, 3 x 3, 1 x 1; without the shortcut, which has parameters in first blocks."""
    shapes = [(inputs, width, 1), (width, width, 3), (width, 4 * width, 1)]
    return [layer for shape in shapes for layer in _convolution(*shape)]


def _convolution(inputs: int, outputs: int, size: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, size, bias=False), nn.BatchNorm2d(outputs)]


def resnet50() -> nn.ModuleList:
    """ResNet-50's layers: what a checkpoint holds, in no order that could run.

    He et al., Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385,
    table 1.
    """
    layers, inputs = _convolution(3, 64, 7), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        layers += _convolution(inputs, 4 * width, 1)  # the first block's shortcut
        for _ in range(blocks):
            layers += _bottleneck(inputs, width)
            inputs = 4 * width
    return nn.ModuleList([*layers, nn.Linear(inputs, 1000)])


def llama_7b() -> nn.ModuleList:
    """Llama 2 7B's layers, likewise.

    Touvron et al., https://arxiv.org/abs/2307.09288; widths from the model's published config:
    32 layers of width 4096, 11,008 in the feed-forward part, 32,000 tokens.
    """
    width, inner, tokens = 4096, 11_008, 32_000
    layers: list[nn.Module] = [nn.Embedding(tokens, width)]
    for _ in range(32):
        layers += [nn.Linear(width, width, bias=False) for _ in ("query", "key", "value", "output")]
        layers += [nn.Linear(width, inner, bias=False) for _ in ("gate", "up")]
        layers += [nn.Linear(inner, width, bias=False)]
        layers += [nn.RMSNorm(width) for _ in ("attention", "feed-forward")]
    return nn.ModuleList([*layers, nn.RMSNorm(width), nn.Linear(width, tokens, bias=False)])


def nbytes(model: nn.Module, optimizer: str = "AdamW") -> tuple[int, int]:
    """(bytes of the weights, bytes of a full checkpoint), for a model on "meta".

    The optimizer takes a step there, and its state is counted: no rule of thumb.
    """
    stepped = getattr(torch.optim, optimizer)(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    stepped.step()
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    states = (tensor for state in stepped.state.values() for tensor in state.values())
    return weights, weights + sum(tensor.nbytes for tensor in states)
