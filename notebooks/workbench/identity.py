"""Are two things the same, to the bit?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def fingerprint(obj: Any) -> str:
    """SHA-256, as 64 hex digits, over every tensor's bytes, dtype, shape and name in ``obj``.

    ``obj`` is a tensor, anything with ``state_dict()``, or dicts, lists and tuples of such;
    numbers and strings inside count too. Equal fingerprints mean equal bits: -0.0 differs from
    0.0, and a NaN equals the same NaN. Where the tensors live (CPU, GPU) does not count.
    """
    digest = hashlib.sha256()
    _feed(digest, obj)
    return digest.hexdigest()


def _feed(digest: Any, obj: Any) -> None:
    if isinstance(obj, Tensor):
        tensor = obj.detach().cpu().contiguous()
        digest.update(f"tensor {tensor.dtype} {tuple(tensor.shape)} ".encode())
        # Viewed as bytes first: NumPy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif hasattr(obj, "state_dict"):
        _feed(digest, obj.state_dict())
    elif isinstance(obj, Mapping):
        digest.update(f"dict {len(obj)} ".encode())
        for key, value in obj.items():
            digest.update(f"{key!r} ".encode())
            _feed(digest, value)
    elif isinstance(obj, list | tuple):
        digest.update(f"list {len(obj)} ".encode())
        for value in obj:
            _feed(digest, value)
    else:
        digest.update(f"{type(obj).__name__} {obj!r} ".encode())
