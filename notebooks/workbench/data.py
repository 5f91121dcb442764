"""Real data that is small: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class Digits(NamedTuple):
    """Images are float32 of shape (N, 1, 8, 8), standardised; labels int64 of shape (N,)."""

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor


@cache
def digits() -> Digits:
    """1,437 images to train on and 360 to validate with, the same split every time.

    Source: UCI "Optical Recognition of Handwritten Digits", as shipped with scikit-learn.
    """
    # Imported here: scikit-learn takes a second, and a probe never needs it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1)
    images = (images - images.mean()) / images.std()
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    train, val = train_test_split(
        range(len(labels)), test_size=360, random_state=0, stratify=bunch.target
    )
    return Digits(images[train], labels[train], images[val], labels[val])


def batches(
    x: Tensor, y: Tensor, *, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield shuffled batches, the last partial one dropped.

    The order is a function of (seed, epoch) alone. No global generator is read or moved, so the
    data's order is never what makes two runs differ here; notebooks 02 and 04 take that away.
    """
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    order = torch.randperm(len(x), generator=generator)
    for first in range(0, len(x) - batch_size + 1, batch_size):
        rows = order[first : first + batch_size]
        yield x[rows], y[rows]
