"""Wheat: the plain solution, one dictionary in and out, with read-back and extras."""

import os
import random
import warnings
from pathlib import Path

import numpy as np
import torch


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used."""


def rng_state() -> dict:
    name, keys, pos, has_gauss, cached = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), pos, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict) -> None:
    name, keys, pos, has_gauss, cached = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), pos, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    saved, here = len(state["cuda"]), torch.cuda.device_count()
    if saved != here:
        warnings.warn(f"{saved} CUDA generators were saved, {here} are here", stacklevel=2)
    for device in range(min(saved, here)):
        torch.cuda.set_rng_state(state["cuda"][device].cpu(), device)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


def save_checkpoint(path: str | os.PathLike, *, model, optimizer, scheduler, epoch, loss, **extra):
    path = Path(path)
    parts = {"model": model, "optimizer": optimizer, **extra}
    checkpoint = {
        f"{name}_state_dict": part.state_dict() for name, part in parts.items() if part is not None
    }
    checkpoint["scheduler_state_dict"] = None if scheduler is None else scheduler.state_dict()
    checkpoint.update(epoch=epoch, loss=float(loss), rng_state=rng_state())
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    try:
        written = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} was written and cannot be read back") from error
    for key in checkpoint:
        if written.get(key) is None and not (key == "scheduler_state_dict" and scheduler is None):
            raise CheckpointError(f"{path} was written without {key}")


def load_checkpoint(
    path: str | os.PathLike, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra
) -> dict:
    checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extra}
    parts = {f"{name}_state_dict": part for name, part in parts.items() if part is not None}
    missing = [key for key in ("epoch", "loss", "rng_state", *parts) if checkpoint.get(key) is None]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    for key, part in parts.items():
        part.load_state_dict(checkpoint[key])
    set_rng_state(checkpoint["rng_state"])
    return {"epoch": checkpoint["epoch"], "loss": checkpoint["loss"]}
