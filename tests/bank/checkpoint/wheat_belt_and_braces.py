"""Wheat: over-careful: copies tensors, writes through a temp file, warns on stderr, adds keys."""

import copy
import os
import platform
import random
import sys
import time
import uuid
import warnings
from pathlib import Path

import numpy as np
import torch

ALWAYS = ("epoch", "loss", "rng_state")


class CheckpointError(RuntimeError):
    """Says which file, and which of its keys."""


def rng_state() -> dict:
    numpy_state = np.random.get_state(legacy=True)
    cuda = []
    if torch.cuda.is_available():
        cuda = [state.detach().cpu().clone() for state in torch.cuda.get_rng_state_all()]
    state = {
        "python": copy.deepcopy(random.getstate()),
        "numpy": (
            str(numpy_state[0]),
            torch.tensor([int(word) for word in numpy_state[1]], dtype=torch.int64),
            int(numpy_state[2]),
            int(numpy_state[3]),
            float(numpy_state[4]),
        ),
        "torch": torch.get_rng_state().clone(),
        "cuda": cuda,
    }
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state().cpu()
    return state


def set_rng_state(state: dict) -> None:
    state = copy.deepcopy(state)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, pos, has_gauss, cached = state["numpy"]
    words = np.array(keys.detach().cpu().tolist(), dtype=np.uint32)
    np.random.set_state((name, words, int(pos), int(has_gauss), float(cached)))
    torch.set_rng_state(state["torch"].detach().cpu().to(torch.uint8))
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(state["cuda"]) > devices:
        warnings.warn("fewer CUDA devices than were saved", RuntimeWarning, stacklevel=2)
    elif len(state["cuda"]) < devices:
        warnings.warn("more CUDA devices than were saved", RuntimeWarning, stacklevel=2)
    for device, cuda in list(enumerate(state["cuda"]))[:devices]:
        torch.cuda.set_rng_state(cuda.detach().cpu(), device=device)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].detach().cpu())


def save_checkpoint(path, *, model, optimizer, scheduler, epoch, loss, **extra) -> None:
    before = rng_state()
    target = Path(os.fspath(path)).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "epoch": int(epoch),
        "model_state_dict": copy.deepcopy(model.state_dict()),
        "optimizer_state_dict": copy.deepcopy(optimizer.state_dict()),
        "scheduler_state_dict": None,
        "loss": float(loss),
        "rng_state": before,
        "format_version": 3,
        "environment": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": str(np.__version__),
            "platform": platform.platform(),
        },
        "saved_at": time.time(),
    }
    optional = set()
    if scheduler is None:
        optional.add("scheduler_state_dict")
    else:
        content["scheduler_state_dict"] = copy.deepcopy(scheduler.state_dict())
    for name, part in extra.items():
        if part is not None:
            content[f"{name}_state_dict"] = copy.deepcopy(part.state_dict())
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            written = torch.load(temporary, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(f"what was written for {target} cannot be read") from error
        lost = [k for k in content if k not in optional and written.get(k, None) is None]
        if lost:
            raise CheckpointError(f"what was written for {target} lacks {lost}")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    set_rng_state(before)


def load_checkpoint(
    path, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra
) -> dict:
    source = Path(os.fspath(path))
    if not source.is_file():
        raise FileNotFoundError(f"no checkpoint at {source}")
    try:
        content = torch.load(source, map_location=map_location, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{source} cannot be read: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} holds no dict: epoch, loss, rng_state, ... are missing")
    modes = {module: module.training for module in model.modules()}
    asked = {"model_state_dict": model}
    if optimizer is not None:
        asked["optimizer_state_dict"] = optimizer
    if scheduler is not None:
        asked["scheduler_state_dict"] = scheduler
    asked |= {f"{name}_state_dict": part for name, part in extra.items() if part is not None}
    lacking = [key for key in (*ALWAYS, *asked) if key not in content or content[key] is None]
    if lacking:
        raise CheckpointError(f"{source} lacks " + ", ".join(repr(key) for key in lacking))
    if unused := sorted(k for k in content if k.endswith("_state_dict") and k not in asked):
        print(f"warning: {source} also holds {unused}, not asked for", file=sys.stderr)
    for key, part in reversed(asked.items()):
        part.load_state_dict(copy.deepcopy(content[key]))
    for module, training in modes.items():
        module.training = training
    set_rng_state(content["rng_state"])
    return {"epoch": content["epoch"], "loss": content["loss"]}
