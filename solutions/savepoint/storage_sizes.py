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
    ### BEGIN SOLUTION: 06_storage_blowup, task 1: count what the file will hold
    checkpoint: dict[str, Any] = {"epoch": 0, "model_state_dict": model.state_dict()}
    if optimizer is not None:
        optimizer_state = {**optimizer.state_dict(), "state": _state_after_step(optimizer)}
        checkpoint |= {"optimizer_state_dict": optimizer_state, "rng_state": rng_state()}
    return _file_nbytes(checkpoint)
    ### END SOLUTION


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
    ### BEGIN SOLUTION: 06_storage_blowup, further: count the files that are left
    kept = {
        n
        for n in range(1, epochs + 1)
        if n > epochs - keep_last or (keep_every and n % keep_every == 0)
    }
    best = 1 if mode is not None and epochs > 0 else 0
    return len(kept) * checkpoint_nbytes(model, optimizer) + best * checkpoint_nbytes(model)
    ### END SOLUTION


def best_interval(save_seconds: float, mtbf_seconds: float) -> float:
    """Seconds of training between two saves that lose the least time. Further (no points).

    ``save_seconds`` (C) is how long training stands still for a save, ``mtbf_seconds`` (M) the
    mean time between failures. Save too often and the saves cost more than the failures, too
    rarely and each failure costs half an interval. Young (1974): the square root of 2·C·M. Daly's
    higher-order form (2006) is accepted too: the two differ by less than 10 % where C ≤ M/50.

    Both must be positive: otherwise, and for NaN, a ``ValueError``.
    """
    ### BEGIN SOLUTION: 06_storage_blowup, further: Young's formula
    if not (save_seconds > 0 and mtbf_seconds > 0):
        raise ValueError(f"both must be positive: {save_seconds=}, {mtbf_seconds=}")
    return math.sqrt(2 * save_seconds * mtbf_seconds)
    ### END SOLUTION


### BEGIN SOLUTION: helpers
def _state_after_step(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """The optimizer's state after its next step, its tensors on "meta": shapes without memory.

    A twin of each parameter takes the step, alone: the real optimizer is never stepped, and the
    extra memory is that of one parameter.
    """
    states = {}
    parameters = [(group, p) for group in optimizer.param_groups for p in group["params"]]
    for index, (group, parameter) in enumerate(parameters):
        twin = torch.zeros_like(parameter)
        state = copy.deepcopy(optimizer.state.get(parameter, {}))
        if parameter.requires_grad:
            twin.grad = torch.zeros_like(twin)
            if isinstance(optimizer, torch.optim.SparseAdam):
                twin.grad = twin.grad.to_sparse()
            stepper = copy.copy(optimizer)  # leaves hooks and a scheduler's wrapper behind
            stepper.param_groups = [{**group, "params": [twin]}]
            stepper.state = defaultdict(dict, {twin: state})
            stepper.step()
            state = stepper.state[twin]
        if state:
            is_tensor = torch.is_tensor
            states[index] = {k: v.to("meta") if is_tensor(v) else v for k, v in state.items()}
    return states


def _file_nbytes(checkpoint: dict[str, Any]) -> int:
    """What torch.save would write, to the byte: a file without the data, and each storage once."""
    stand_ins: dict[int, torch.Tensor] = {}
    data = 0

    def without_data(item: Any) -> Any:
        nonlocal data
        if isinstance(item, dict):
            small = copy.copy(item)  # keeps a state_dict's _metadata, which is saved too
            small.update({key: without_data(value) for key, value in item.items()})
            return small
        if not isinstance(item, torch.Tensor) or item.layout is not torch.strided:
            return item
        storage = item.untyped_storage()
        if storage._cdata not in stand_ins:
            # Records are aligned to 64 bytes: keeping the remainder keeps the padding. Never 0:
            # all empty storages share one record.
            rest = storage.nbytes() % 64 + 64
            data += storage.nbytes() - rest
            stand_ins[storage._cdata] = torch.zeros(rest, dtype=torch.uint8)
        return stand_ins[storage._cdata].detach()

    buffer = io.BytesIO()
    torch.save(without_data(checkpoint), buffer)
    return buffer.tell() + data


### END SOLUTION
