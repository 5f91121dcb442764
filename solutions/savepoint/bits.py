"""Are two tensors the same, to the bit? (notebook 00, practice)"""

from __future__ import annotations

import torch
from torch import Tensor


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True if ``a`` and ``b`` have the same dtype, the same shape and the same bits.

    Bits, not numbers: NaN is the same as the same NaN, and -0.0 is not the same as 0.0. How a
    tensor lies in memory (transposed, sliced) does not count. Any dtype; both on one device.
    """
    ### BEGIN SOLUTION: 00_start_here, task 1: compare bits, not numbers
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a_bytes = a.contiguous().reshape(-1).view(torch.uint8)
    b_bytes = b.contiguous().reshape(-1).view(torch.uint8)
    return torch.equal(a_bytes, b_bytes)
    ### END SOLUTION
