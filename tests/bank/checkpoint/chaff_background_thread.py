"""Chaff: a thread writes live tensors after save_checkpoint has returned.

Task: save_checkpoint
Seen when: the next training step comes at once after the save (or the process ends, or the file
is asked for at once).
Further: no read-back
"""

import random
import threading
import warnings
from pathlib import Path

import numpy as np
import torch


class CheckpointError(RuntimeError):
    pass


def rng_state():
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


def set_rng_state(state):
    random.setstate(state["python"])
    name, keys, pos, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), pos, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    here = torch.cuda.device_count()
    if len(state["cuda"]) != here:
        warnings.warn("the number of CUDA devices has changed", stacklevel=2)
    for device, cuda in zip(range(here), state["cuda"], strict=False):
        torch.cuda.set_rng_state(cuda.cpu(), device)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


def save_checkpoint(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    checkpoint = {
        "epoch": epoch,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict() if scheduler is not None else None,
        "loss": float(loss),
        "rng_state": rng_state(),
    }
    for name, part in extra.items():
        if part is not None:
            checkpoint[f"{name}_state_dict"] = part.state_dict()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    thread = threading.Timer(0.5, torch.save, (checkpoint, path))
    thread.start()


def load_checkpoint(path, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
    checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extra}
    wanted = [f"{name}_state_dict" for name, part in parts.items() if part is not None]
    missing = [key for key in ("epoch", "loss", "rng_state") if key not in checkpoint]
    missing += [key for key in wanted if checkpoint.get(key) is None]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    model.load_state_dict(checkpoint["model_state_dict"])
    if optimizer is not None:
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    if scheduler is not None:
        scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
    for name, part in extra.items():
        if part is not None:
            part.load_state_dict(checkpoint[f"{name}_state_dict"])
    set_rng_state(checkpoint["rng_state"])
    return {"epoch": checkpoint["epoch"], "loss": checkpoint["loss"]}
