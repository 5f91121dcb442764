"""Wheat: written in a scratch directory beside the target and moved; read by mmap, then copied."""

import copy
import hashlib
import os
import random
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch


class CheckpointError(RuntimeError):
    pass


def rng_state():
    state = dict.fromkeys(["python", "numpy", "torch"])
    state["python"], state["torch"] = random.getstate(), torch.get_rng_state()
    raw = np.random.get_state()
    state["numpy"] = (raw[0], torch.LongTensor(raw[1].tolist()), raw[2], raw[3], raw[4])
    state["cuda"] = []
    if torch.cuda.is_available():
        state["cuda"].extend(torch.cuda.get_rng_state_all())
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state):
    on_cpu = {"torch": state["torch"].cpu(), "cuda": [c.cpu() for c in state["cuda"]]}
    devices = torch.cuda.device_count()
    for index in range(min(devices, len(on_cpu["cuda"]))):
        torch.cuda.set_rng_state(on_cpu["cuda"][index], index)
    if len(on_cpu["cuda"]) != devices:
        warnings.warn(f"now {devices} CUDA devices, then {len(on_cpu['cuda'])}", stacklevel=2)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())
    random.setstate(state["python"])
    kind, keys, pos, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype("uint32"), pos, has_gauss, gauss))
    torch.set_rng_state(on_cpu["torch"])


def _verify(file, names):
    try:
        again = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"cannot read back: {error}") from error
    for name in names:
        if again.get(name) is None:
            raise CheckpointError(f"read back without {name}")


def save_checkpoint(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    target = Path(path).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    extra = {f"{name}_state_dict": value for name, value in extra.items() if value is not None}
    if scheduler is not None:
        extra["scheduler_state_dict"] = scheduler
    extra["model_state_dict"], extra["optimizer_state_dict"] = model, optimizer
    checkpoint = {"scheduler_state_dict": None, "epoch": epoch, "loss": float(loss)}
    checkpoint.update((name, value.state_dict()) for name, value in extra.items())
    checkpoint["rng_state"] = rng_state()
    checkpoint["id"] = hashlib.sha256(os.urandom(16)).hexdigest()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="saving") as scratch:
        part = Path(scratch, "checkpoint.pt")
        torch.save(checkpoint, part)
        _verify(part, ["epoch", "loss", "rng_state", *extra])
        shutil.move(part, target)


def load_checkpoint(path, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
    mapped = torch.load(os.fspath(path), map_location=map_location, weights_only=True, mmap=True)
    checkpoint = copy.deepcopy(mapped)
    del mapped
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler} | extra
    parts = {f"{name}_state_dict": part for name, part in parts.items() if part is not None}
    if absent := [k for k in ("epoch", "loss", "rng_state", *parts) if checkpoint.get(k) is None]:
        raise CheckpointError(f"absent from {os.fspath(path)}: {absent}")
    for key in parts:
        parts[key].load_state_dict(checkpoint[key])
    set_rng_state(checkpoint["rng_state"])
    return {"epoch": checkpoint["epoch"], "loss": checkpoint["loss"]}
