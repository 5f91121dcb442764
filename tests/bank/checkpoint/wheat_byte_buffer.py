"""Wheat: serialises in memory, writes the bytes at once, compares them; extras are ignored.

Further: no extra
Further: no read-back (of extras; it does read back what it writes)
"""

import io
import os
import random
import warnings
from pathlib import Path

import numpy as np
import torch

_KEYS = {"model": "model_state_dict", "optimizer": "optimizer_state_dict"}
_KEYS["scheduler"] = "scheduler_state_dict"


class CheckpointError(RuntimeError):
    pass


def rng_state():
    mt, words, *tail = np.random.get_state()
    low, high = torch.from_numpy((words & 0xFFFF).astype("i4")), (words >> 16).astype("i4")
    keys = low.long() + (torch.from_numpy(high).long() << 16)
    return (
        {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": (mt, keys, *tail)}
        | {"cuda": torch.cuda.get_rng_state_all() if torch.cuda.device_count() else []}
        | ({"mps": torch.mps.get_rng_state()} if torch.backends.mps.is_available() else {})
    )


def set_rng_state(state):
    mt, keys, *tail = state["numpy"]
    np.random.set_state((mt, keys.to("cpu", copy=True).numpy().astype("u4"), *tail))
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"].to("cpu"))
    cuda = [tensor.to("cpu") for tensor in state["cuda"]][: torch.cuda.device_count()]
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
    if not len(cuda) == len(state["cuda"]) == torch.cuda.device_count():
        warnings.warn("CUDA generators do not match the devices", UserWarning, stacklevel=2)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].to("cpu"))


def save_checkpoint(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    checkpoint = {"rng_state": rng_state(), "loss": float(loss), "epoch": epoch}
    for name, part in (("model", model), ("optimizer", optimizer), ("scheduler", scheduler)):
        checkpoint[_KEYS[name]] = None if part is None else part.state_dict()
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    file = Path(path)
    os.makedirs(file.resolve().parent, exist_ok=True)  # noqa: PTH103
    file.write_bytes(buffer.getvalue())
    try:
        again = torch.load(io.BytesIO(file.read_bytes()), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{file} does not read back: {error!r}") from error
    allowed = () if scheduler is not None else ("scheduler_state_dict",)
    empty = [key for key in checkpoint if again.get(key) is None and key not in allowed]
    if empty:
        raise CheckpointError(f"{file} reads back without {empty}")


def load_checkpoint(path, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
    blob = io.BytesIO(Path(path).read_bytes())
    checkpoint = torch.load(blob, map_location=map_location, weights_only=True)
    given = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    given = {_KEYS[name]: part for name, part in given.items() if part is not None}
    lacking = {"epoch", "loss", "rng_state", *given} - checkpoint.keys()
    lacking |= {key for key in given if checkpoint.get(key) is None}
    if lacking:
        raise CheckpointError(" ".join(["missing:", *sorted(lacking)]))
    for key in sorted(given):
        given[key].load_state_dict(checkpoint.pop(key))
    set_rng_state(checkpoint.pop("rng_state"))
    return {key: checkpoint[key] for key in checkpoint.keys() & {"epoch", "loss"}}
