"""Are two tensors the same, to the bit? (notebook 00, practice)"""

from __future__ import annotations

import torch
from torch import Tensor


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True if ``a`` and ``b`` have the same dtype, the same shape and the same bits.

    Bits, not numbers: NaN is the same as the same NaN, and -0.0 is not the same as 0.0. How a
    tensor lies in memory (transposed, sliced) does not count. Any dtype; both on one device.
    """
    raise NotImplementedError("00_start_here, task 1: compare bits, not numbers")
