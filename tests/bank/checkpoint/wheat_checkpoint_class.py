"""Wheat: a class does the work, and it prints its progress to stdout."""

import random
import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn


class CheckpointError(RuntimeError):
    pass


class IncompleteError(CheckpointError):
    def __init__(self, path, keys):
        super().__init__(f"checkpoint {str(path)!r} is incomplete: no {' and no '.join(keys)}")


class _Generators:
    @staticmethod
    def capture():
        kind, words, *rest = np.random.get_state()
        found = OrderedDict()
        found["cuda"] = [torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())]
        found["torch"] = torch.default_generator.get_state()
        found["numpy"] = (kind, torch.as_tensor(words.astype("int64")), *rest)
        found["python"] = random.getstate()
        if torch.backends.mps.is_available():
            found["mps"] = torch.mps.get_rng_state()
        return found

    @staticmethod
    def restore(found):
        torch.default_generator.set_state(found["torch"].to("cpu"))
        kind, words, *rest = found["numpy"]
        np.random.set_state((kind, words.to("cpu").numpy().astype("uint32"), *rest))
        random.setstate(found["python"])
        count = torch.cuda.device_count()
        if count != len(found["cuda"]):
            warnings.warn(f"CUDA devices: {len(found['cuda'])} then, {count} now", stacklevel=3)
        for index, state in enumerate(found["cuda"][:count]):
            torch.cuda.set_rng_state(state.to("cpu"), index)
        if found.get("mps") is not None and torch.backends.mps.is_available():
            torch.mps.set_rng_state(found["mps"].to("cpu"))


@dataclass
class _Checkpoint:
    path: Path
    content: dict = field(default_factory=dict)

    def require(self, keys):
        absent = [key for key in keys if self.content.get(key) is None]
        if absent:
            raise IncompleteError(self.path, absent)

    def write(self):
        self.path.parent.mkdir(exist_ok=True, parents=True)
        with self.path.open("wb") as file:
            torch.save(self.content, file)
        print(f"saved {self.path.name}: {self.path.stat().st_size:,} bytes", flush=True)

    @classmethod
    def read(cls, path, map_location):
        with Path(path).open("rb") as file:
            return cls(Path(path), torch.load(file, map_location=map_location))


def rng_state():
    return dict(_Generators.capture())


def set_rng_state(state):
    _Generators.restore(state)


def save_checkpoint(path, *, model: nn.Module, optimizer, scheduler, epoch, loss, **extra):
    content = OrderedDict(epoch=epoch, loss=float(loss))
    content["model_state_dict"] = model.state_dict()
    content["optimizer_state_dict"] = optimizer.state_dict()
    content["scheduler_state_dict"] = scheduler.state_dict() if scheduler is not None else None
    for name in extra:
        if extra[name] is not None:
            content[name + "_state_dict"] = extra[name].state_dict()
    content["rng_state"] = rng_state()
    checkpoint = _Checkpoint(Path(path), content)
    checkpoint.write()
    try:
        again = _Checkpoint.read(path, "cpu")
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read back") from error
    may_be_none = {"scheduler_state_dict"} if scheduler is None else set()
    again.require(content.keys() - may_be_none)


def load_checkpoint(path, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
    checkpoint = _Checkpoint.read(path, map_location)
    asked = {"model": model, "optimizer": optimizer, "scheduler": scheduler} | extra
    asked = {f"{name}_state_dict": what for name, what in asked.items() if what is not None}
    checkpoint.require(["epoch", "loss", "rng_state", *asked])
    for key, what in asked.items():
        print("restoring", key)
        what.load_state_dict(checkpoint.content[key])
    set_rng_state(checkpoint.content["rng_state"])
    return {"loss": checkpoint.content["loss"], "epoch": checkpoint.content["epoch"]}
