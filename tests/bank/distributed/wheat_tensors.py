"""Wheat: class-based; no object collectives: padded byte tensors, and flags by all_reduce."""

import io
import os
import random
import secrets
import warnings
from collections import OrderedDict

import numpy as np
import torch
import torch.distributed as dist
from savepoint.checkpoint import CheckpointError, rng_state, save_checkpoint, set_rng_state
from savepoint.files import atomic_save, verify_file
from torch.nn.parallel import DistributedDataParallel


def unwrap(model):
    return model.module if isinstance(model, DistributedDataParallel) else model


class _Stripped(OrderedDict):
    def __init__(self, state_dict, prefix):
        super().__init__((self.strip(name, prefix), t) for name, t in state_dict.items())
        if hasattr(state_dict, "_metadata"):
            entries = state_dict._metadata.items()
            self._metadata = OrderedDict(
                (self.strip(f"{name}.", prefix)[:-1], entry) for name, entry in entries
            )

    @staticmethod
    def strip(name, prefix):
        return name[len(prefix) :] if prefix and name.startswith(prefix) else name


def strip_prefix(state_dict, prefix="module."):
    return _Stripped(state_dict, prefix)


class Ranks:
    def __init__(self, device):
        self.grouped = dist.is_initialized()
        self.rank = dist.get_rank() if self.grouped else 0
        self.world = dist.get_world_size() if self.grouped else 1
        self.device = device if self.grouped and dist.get_backend() == "nccl" else "cpu"

    def largest(self, number):
        number = torch.tensor([number], device=self.device)
        if self.grouped:
            dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number)

    def texts(self, content):
        """Every rank's bytes, by rank."""
        size = self.largest(len(content))
        padded = torch.zeros(size + 8, dtype=torch.uint8, device=self.device)
        head = len(content).to_bytes(8, "big") + content
        padded[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        if not self.grouped:
            return [content]
        rows = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(rows, padded)
        rows = [bytes(row.tolist()) for row in rows]
        return [row[8 : 8 + int.from_bytes(row[:8], "big")] for row in rows]


def _device(model):
    for parameter in model.parameters():
        return parameter.device
    return torch.device("cpu")


def save_checkpoint_ddp(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    model = unwrap(model)
    ranks = Ranks(_device(model))
    extra = {name: part for name, part in extra.items() if part is not None}
    if not ranks.grouped:
        save_checkpoint(
            path,
            model=model,
            optimizer=optimizer,
            scheduler=scheduler,
            epoch=epoch,
            loss=loss,
            **extra,
        )
        return
    buffer = io.BytesIO()
    torch.save(rng_state(), buffer)
    states = [torch.load(io.BytesIO(row)) for row in ranks.texts(buffer.getvalue())]
    problem = b""
    if ranks.rank == 0:
        try:
            content = {f"{name}_state_dict": part.state_dict() for name, part in extra.items()}
            content["epoch"], content["loss"] = epoch, float(loss)
            content["model_state_dict"] = model.state_dict()
            content["optimizer_state_dict"] = optimizer.state_dict()
            content["scheduler_state_dict"] = scheduler and scheduler.state_dict()
            content["rng_state"], content["rng_state_per_rank"] = states[0], states
            directory = os.path.dirname(os.fspath(path))
            if directory:
                os.makedirs(directory, exist_ok=True)
            atomic_save(content, path)
            verify_file(path)
        except BaseException as error:
            problem = f"{type(error).__qualname__}: {error}".encode()
    problem = ranks.texts(problem)[0].decode()
    if problem:
        raise SystemError(problem)


def load_checkpoint_ddp(path, *, model, optimizer=None, scheduler=None, map_location=None, **extra):
    model = unwrap(model)
    ranks = Ranks(_device(model))
    if not ranks.largest(int(os.path.isfile(path))):  # one rank that sees it is enough
        raise FileNotFoundError(2, "no rank sees this file", os.fspath(path))
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extra}
    parts = {name: part for name, part in parts.items() if part is not None}
    problem = b""
    try:
        with open(path, "rb") as file:
            where = _device(model) if map_location is None else map_location
            content = torch.load(io.BytesIO(file.read()), map_location=where)
        keys = ["epoch", "loss", "rng_state"] + [f"{name}_state_dict" for name in parts]
        if any(content.get(key) is None for key in keys):
            problem = b"without " + str([k for k in keys if content.get(k) is None]).encode()
    except Exception as error:
        problem = type(error).__name__.encode()
    problems = ranks.texts(problem)
    if any(problems):
        broken = [rank for rank, text in enumerate(problems) if text]
        raise CheckpointError(f"{path}: {[p.decode() for p in problems]}; see ranks {broken}")
    for name, part in parts.items():
        part.load_state_dict(content[f"{name}_state_dict"])
    states = [content["rng_state"]]
    if "rng_state_per_rank" in content:
        states = content["rng_state_per_rank"]
    if len(states) != ranks.world:
        warnings.warn(f"not bit-identical: {len(states)} ranks have become {ranks.world}")
    if ranks.rank < len(states):
        set_rng_state(states[ranks.rank])
    else:
        random.seed(secrets.randbits(64))
        np.random.seed(secrets.randbits(32))
        torch.manual_seed(secrets.randbits(63))
    return dict(epoch=content["epoch"], loss=content["loss"], world_size=len(states))
