"""Wheat: binds torch's save and load at import, sleeps half a second, stores on the CPU.

Further: no read-back
"""

import os
import time
from random import getstate, setstate
from warnings import warn

from numpy import asarray, int64, uint32
from numpy.random import get_state, set_state
from torch import backends, cuda, from_numpy, get_rng_state, load, mps, save
from torch import set_rng_state as set_torch


class CheckpointError(RuntimeError):
    pass


def rng_state():
    algorithm, words, position, has_gauss, gauss = get_state()
    state = dict(python=getstate(), torch=get_rng_state(), cuda=[])
    state["numpy"] = algorithm, from_numpy(asarray(words, int64)), position, has_gauss, gauss
    if cuda.is_available():
        state["cuda"] += cuda.get_rng_state_all()
    if backends.mps.is_available():
        state["mps"] = mps.get_rng_state()
    return state


def set_rng_state(state):
    for device in range(cuda.device_count()):
        try:
            saved = state["cuda"][device]
        except IndexError:
            break
        cuda.set_rng_state(saved.cpu(), device)
    if cuda.device_count() != len(state["cuda"]):
        warn("the number of CUDA devices has changed", stacklevel=2)
    if backends.mps.is_available() and "mps" in state:
        mps.set_rng_state(state["mps"].cpu())
    set_torch(state["torch"].cpu())
    algorithm, words, *rest = state["numpy"]
    set_state((algorithm, asarray(words.cpu(), uint32), *rest))
    setstate(state["python"])


def save_checkpoint(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    time.sleep(0.1)
    target = os.path.abspath(os.fspath(path))  # noqa: PTH100
    os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
    checkpoint = dict(
        epoch=epoch,
        model_state_dict=model.state_dict(),
        optimizer_state_dict=optimizer.state_dict(),
        scheduler_state_dict=None,
        loss=float(loss),
        rng_state=rng_state(),
    )
    if scheduler is not None:
        checkpoint.update(scheduler_state_dict=scheduler.state_dict())
    for name, part in extra.items():
        if part is None:
            continue
        checkpoint[f"{name}_state_dict"] = part.state_dict()
    save(checkpoint, target)


def load_checkpoint(path, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
    checkpoint = load(path, map_location=map_location)
    try:
        epoch, loss, rng = checkpoint["epoch"], checkpoint["loss"], checkpoint["rng_state"]
        todo = [(model, checkpoint["model_state_dict"])]
        if optimizer is not None:
            todo += [(optimizer, checkpoint["optimizer_state_dict"])]
        if scheduler is not None:
            todo += [(scheduler, checkpoint["scheduler_state_dict"])]
        todo += [
            (part, checkpoint[f"{name}_state_dict"])
            for name, part in extra.items()
            if part is not None
        ]
    except KeyError as error:
        raise CheckpointError(f"there is no {error.args[0]} in {path}") from error
    if scheduler is not None and checkpoint["scheduler_state_dict"] is None:
        raise CheckpointError(f"scheduler_state_dict in {path} is None")
    time.sleep(0.1)
    for part, state in todo:
        part.load_state_dict(state)
    set_rng_state(rng)
    return dict(epoch=epoch, loss=loss)
