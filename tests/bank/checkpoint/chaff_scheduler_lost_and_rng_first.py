"""Chaff: the generators are restored before the extras, and the scheduler not at all. Two mistakes:
the verdict names the one that parts the runs.

Task: load_checkpoint
Seen when: the schedule changes the rate after the load.
"""

import os
import random
import warnings
from pathlib import Path

import numpy as np
import torch


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used."""


def rng_state():
    name, keys, pos, has_gauss, cached = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (
            name,
            torch.from_numpy(keys.astype(np.int64)),
            int(pos),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())],
    }
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state):
    random.setstate(state["python"])
    name, keys, pos, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), pos, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    saved = state["cuda"]
    here = torch.cuda.device_count()
    if len(saved) != here:
        warnings.warn(
            f"RNG states of {len(saved)} CUDA devices were saved, {here} are here; the common ones are restored"
        )
    for i, s in enumerate(saved[:here]):
        torch.cuda.set_rng_state(s.cpu(), i)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


def _read_back(path, keys):
    try:
        back = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise CheckpointError(f"{path} cannot be read back: {e}") from e
    for key in keys:
        if key not in back or back[key] is None:
            raise CheckpointError(f"{path}: {key} is missing")


def save_checkpoint(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "epoch": epoch,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": None if scheduler is None else scheduler.state_dict(),
        "loss": float(loss),
    }
    for name, obj in extra.items():
        if obj is not None:
            checkpoint[f"{name}_state_dict"] = obj.state_dict()
    checkpoint["rng_state"] = rng_state()
    torch.save(checkpoint, path)
    wanted = [k for k in checkpoint if k != "scheduler_state_dict" or scheduler is not None]
    _read_back(path, wanted)


def load_checkpoint(path, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
    path = Path(path)
    checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    extra = {name: obj for name, obj in extra.items() if obj is not None}
    required = ["epoch", "loss", "rng_state", "model_state_dict"]
    if optimizer is not None:
        required.append("optimizer_state_dict")
    if scheduler is not None:
        required.append("scheduler_state_dict")
    required += [f"{name}_state_dict" for name in extra]
    missing = [k for k in required if k not in checkpoint or checkpoint[k] is None]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    set_rng_state(checkpoint["rng_state"])
    model.load_state_dict(checkpoint["model_state_dict"])
    if optimizer is not None:
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    for name, obj in extra.items():
        obj.load_state_dict(checkpoint[f"{name}_state_dict"])
    return {"epoch": checkpoint["epoch"], "loss": checkpoint["loss"]}
