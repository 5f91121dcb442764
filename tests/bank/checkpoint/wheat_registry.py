"""Wheat: tables of getters and setters; logs to stderr; restores the optimizer before the model.

Further: no read-back
"""

import logging
import random
import warnings
from pathlib import Path

import numpy as np
import torch

log = logging.getLogger("checkpoint")
log.addHandler(logging.StreamHandler())
log.setLevel(logging.INFO)


class CheckpointError(RuntimeError):
    pass


class MissingKeyError(CheckpointError, LookupError):
    pass


def _get_numpy():
    state = list(np.random.mtrand._rand.get_state())
    state[1] = torch.tensor(state[1].astype(np.int64))
    return tuple(state)


def _set_numpy(state):
    keys = np.asarray(state[1].cpu().numpy(), dtype=np.uint32)
    np.random.set_state((state[0], keys, *state[2:]))


def _set_cuda(states):
    here = torch.cuda.device_count()
    if here != len(states):
        warnings.warn(f"CUDA: {len(states)} generators saved, {here} here", stacklevel=3)
    for i, state in enumerate(states):
        if i < here:
            torch.cuda.set_rng_state(state.cpu(), f"cuda:{i}")


GENERATORS = {
    "python": (random.getstate, random.setstate),
    "numpy": (_get_numpy, _set_numpy),
    "torch": (torch.get_rng_state, lambda state: torch.set_rng_state(state.cpu())),
    "cuda": (lambda: list(map(torch.cuda.get_rng_state, range(_devices()))), _set_cuda),
}
if torch.backends.mps.is_available():
    GENERATORS["mps"] = (
        lambda: torch.mps.get_rng_state(),
        lambda state: torch.mps.set_rng_state(state.cpu()),
    )


def _devices():
    return torch.cuda.device_count()


def rng_state():
    return {name: get() for name, (get, _) in GENERATORS.items()}


def set_rng_state(state):
    for name, (_, put) in GENERATORS.items():
        if name in state:
            put(state[name])


def save_checkpoint(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    present = {name: part for name, part in extra.items() if part is not None}
    checkpoint = {"epoch": epoch, "loss": float(loss), "scheduler_state_dict": None}
    for name, part in [("model", model), ("optimizer", optimizer), *present.items()]:
        checkpoint[f"{name}_state_dict"] = part.state_dict()
    if scheduler is not None:
        checkpoint["scheduler_state_dict"] = scheduler.state_dict()
    checkpoint["rng_state"] = rng_state()
    checkpoint["note"] = "written by wheat_registry"
    for parent in reversed(Path(path).parents):
        parent.mkdir(exist_ok=True)
    with open(path, "wb", buffering=1 << 20) as file:  # noqa: PTH123
        torch.save(checkpoint, file)
    log.info("wrote %s", path)


def load_checkpoint(path, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
    log.warning("loading %s", path)
    checkpoint = torch.load(path, weights_only=True, map_location=map_location)
    wanted = {**extra, "scheduler": scheduler, "optimizer": optimizer, "model": model}
    wanted = {name: part for name, part in wanted.items() if part is not None}
    for key in ("rng_state", "epoch", "loss", *(f"{name}_state_dict" for name in wanted)):
        if checkpoint.get(key) is None:
            raise MissingKeyError(f"{path}: {key} is missing")
    for name, part in wanted.items():
        part.load_state_dict(checkpoint[f"{name}_state_dict"])
        log.info("restored %s", name)
    set_rng_state(checkpoint["rng_state"])
    return {"epoch": checkpoint["epoch"], "loss": checkpoint["loss"]}
