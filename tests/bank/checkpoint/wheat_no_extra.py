"""Wheat: the core alone; extras are accepted and ignored.

Further: no extra
Further: no read-back
"""

import random
import warnings
from pathlib import Path

import numpy
import torch


class CheckpointError(RuntimeError):
    pass


def rng_state():
    full = numpy.random.get_state(legacy=False)
    keys = torch.zeros(624, dtype=torch.int64)
    for index, word in enumerate(full["state"]["key"]):
        keys[index] = int(word)
    state = {"python": random.getstate()}
    state["numpy"] = (
        full["bit_generator"],
        keys,
        full["state"]["pos"],
        full["has_gauss"],
        full["gauss"],
    )
    state["torch"] = torch.get_rng_state()
    state["cuda"] = []
    for device in range(torch.cuda.device_count()):
        state["cuda"].append(torch.cuda.get_rng_state(device))
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state):
    random.setstate(state["python"])
    name, keys, pos, has_gauss, gauss = state["numpy"]
    words = numpy.array(keys.tolist(), dtype="uint32")
    numpy.random.set_state(
        {
            "bit_generator": name,
            "state": {"key": words, "pos": pos},
            "has_gauss": has_gauss,
            "gauss": gauss,
        }
    )
    torch.random.default_generator.set_state(state["torch"].cpu())
    devices = torch.cuda.device_count()
    if devices != len(state["cuda"]):
        warnings.warn(f"{devices} CUDA devices, {len(state['cuda'])} states", stacklevel=2)
    for device in range(devices):
        if device < len(state["cuda"]):
            torch.cuda.set_rng_state(state["cuda"][device].cpu(), device)
    if torch.backends.mps.is_available() and "mps" in state:
        torch.mps.set_rng_state(state["mps"].cpu())


def save_checkpoint(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    if scheduler is None:
        scheduler_state = None
    else:
        scheduler_state = scheduler.state_dict()
    checkpoint = {
        "epoch": epoch,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler_state,
        "loss": float(loss),
        "rng_state": rng_state(),
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)


def load_checkpoint(path, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
    checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    for key in ["epoch", "loss", "rng_state", "model_state_dict"]:
        if key not in checkpoint:
            raise CheckpointError("checkpoint has no " + key)
    if optimizer is not None and "optimizer_state_dict" not in checkpoint:
        raise CheckpointError("checkpoint has no optimizer_state_dict")
    if scheduler is not None and checkpoint.get("scheduler_state_dict") is None:
        raise CheckpointError("checkpoint has no scheduler_state_dict")
    model.load_state_dict(checkpoint["model_state_dict"])
    if optimizer is not None:
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    if scheduler is not None:
        scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
    set_rng_state(checkpoint["rng_state"])
    return {"epoch": checkpoint["epoch"], "loss": checkpoint["loss"]}
