"""Wheat: as few lines as will do; only the first missing key is named.

Further: no read-back
"""

import random
import warnings
from pathlib import Path

import numpy as np
import torch as t


class CheckpointError(RuntimeError): ...


def rng_state():
    n = np.random.get_state()
    s = {"python": random.getstate(), "numpy": (n[0], t.tensor(n[1].tolist()), *n[2:])}
    s |= {"torch": t.random.get_rng_state(), "cuda": list(t.cuda.get_rng_state_all())}
    return s | ({"mps": t.mps.get_rng_state()} if t.backends.mps.is_available() else {})


def set_rng_state(s):
    random.setstate(s["python"])
    np.random.set_state((s["numpy"][0], s["numpy"][1].tolist(), *s["numpy"][2:]))
    t.random.set_rng_state(s["torch"].cpu())
    if len(s["cuda"]) != t.cuda.device_count():
        warnings.warn("not the number of CUDA devices that was saved", stacklevel=2)
    for i, c in zip(range(t.cuda.device_count()), s["cuda"], strict=False):
        t.cuda.set_rng_state(c.cpu(), i)
    if "mps" in s and t.backends.mps.is_available():
        t.mps.set_rng_state(s["mps"].cpu())


def save_checkpoint(path, *, epoch, loss, scheduler, **parts):
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    c = {f"{k}_state_dict": p.state_dict() for k, p in parts.items() if p is not None}
    c["scheduler_state_dict"] = scheduler and scheduler.state_dict()
    t.save(c | {"epoch": epoch, "loss": float(loss), "rng_state": rng_state()}, path)


def load_checkpoint(path, *, map_location="cpu", **parts):
    c = t.load(path, map_location)
    parts = {f"{k}_state_dict": p for k, p in parts.items() if p is not None}
    for k in ["epoch", "loss", "rng_state", *parts]:
        if c.get(k) is None:
            raise CheckpointError(k)
    for k, p in parts.items():
        p.load_state_dict(c[k])
    set_rng_state(c["rng_state"])
    return {k: c[k] for k in ("epoch", "loss")}
