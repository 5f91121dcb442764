"""How large a checkpoint, a run, and the interval between two saves should be (notebook 06).

Arithmetic before training: a disk that fills at epoch 61 was too small at epoch 0.
"""

from __future__ import annotations

import copy
import io
import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from savepoint.checkpoint import rng_state


def checkpoint_nbytes(model: nn.Module, optimizer: Optimizer | None = None) -> int:
    """The size in bytes of the file that ``save_checkpoint`` will write after the next step.

    Without an optimizer: of a file with the weights alone. True to 2 % for a model of 1 MB or
    more, with no training needed first:

    - everything in ``model.state_dict()``: parameters *and* persistent buffers, in their dtypes;
    - what the optimizer will hold after its next ``step()``, although before the first it may
      hold nothing: for each parameter it was given that requires a gradient (all of which are
      taken to get one). It may be any optimizer of ``torch.optim`` with any options, except one
      whose ``step()`` needs a closure (LBFGS);
    - tied tensors once, as ``torch.save`` writes them;
    - the rest of the file, where it is large enough to matter.

    Nothing changes: not the model, its gradients, the optimizer, or any random generator.
    """
    raise NotImplementedError("06_storage_blowup, task 1: count what the file will hold")


def run_nbytes(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    epochs: int,
    keep_last: int = 3,
    keep_every: int = 0,
    mode: str | None = "min",
) -> int:
    """The bytes in a ``CheckpointManager``'s directory after ``epochs`` saves. Further (no points).

    The saves are numbered 1, 2, ..., ``epochs`` (0 or more). ``keep_last``, ``keep_every`` and
    ``mode`` are the manager's. Counted are the full checkpoints that it keeps, each once though it
    be both recent and periodic, and one file of weights alone, the best, unless ``mode`` is None
    or ``epochs`` is 0. Sizes are those of ``checkpoint_nbytes``. "Save every epoch" is
    ``keep_every=1``. While saving, the disk needs room for one more of each.
    """
    raise NotImplementedError("06_storage_blowup, further: count the files that are left")


def best_interval(save_seconds: float, mtbf_seconds: float) -> float:
    """Seconds of training between two saves that lose the least time. Further (no points).

    ``save_seconds`` (C) is how long training stands still for a save, ``mtbf_seconds`` (M) the
    mean time between failures. Save too often and the saves cost more than the failures, too
    rarely and each failure costs half an interval. Young (1974): the square root of 2·C·M. Daly's
    higher-order form (2006) is accepted too: the two differ by less than 10 % where C ≤ M/50.

    Both must be positive: otherwise, and for NaN, a ``ValueError``.
    """
    raise NotImplementedError("06_storage_blowup, further: Young's formula")
