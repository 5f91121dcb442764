"""Wheat: slow and talkative: sleeps, prints, warns of no error, binds torch.save at import."""

import copy
import io
import math
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from time import sleep

import torch
from savepoint.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from savepoint.files import atomic_save, verify_file
from torch import load, save


def _number(path, kind):
    prefix, suffix = f"{kind}-", ".pt"
    name = path.name
    middle = name[len(prefix) : -len(suffix)]
    ok = name.startswith(prefix) and name.endswith(suffix) and middle.isascii() and middle.isdigit()
    return int(middle) if ok else None


def checkpoint_nbytes(model, optimizer=None):
    print("measuring", type(model).__name__)
    checkpoint = {"model_state_dict": model.state_dict()}
    if optimizer is not None:
        twins = []
        for group in optimizer.param_groups:
            params = [p.detach().clone().requires_grad_(p.requires_grad) for p in group["params"]]
            twins.append({**group, "params": params})
            for p in params:
                if p.requires_grad:
                    p.grad = torch.ones_like(p)
                    if isinstance(optimizer, torch.optim.SparseAdam):
                        p.grad = p.grad.to_sparse()
        stand_in = type(optimizer).__new__(type(optimizer))
        stand_in.__setstate__({"defaults": optimizer.defaults, "state": {}, "param_groups": twins})
        stand_in.state = type(optimizer.state)(dict)
        stand_in.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        stand_in.step()
        checkpoint["optimizer_state_dict"] = stand_in.state_dict()
        checkpoint["room_for_the_generators"] = b"." * 15_000
    buffer = io.BytesIO()
    save(checkpoint, buffer)
    return len(buffer.getvalue())


def run_nbytes(model, optimizer, *, epochs, keep_last=3, keep_every=0, mode="min"):
    disk = set()
    for n in range(1, epochs + 1):
        disk.add(n)
        disk = {i for i in disk if i > n - keep_last or keep_every and i % keep_every == 0}
    total = sum(checkpoint_nbytes(model, optimizer) for _ in disk)
    if epochs and mode:
        total += checkpoint_nbytes(model)
    return total


def best_interval(save_seconds, mtbf_seconds):
    for value in (save_seconds, mtbf_seconds):
        if math.isnan(value) or value <= 0:
            raise ValueError(f"{value} seconds")
    return math.sqrt(2.0) * math.sqrt(save_seconds) * math.sqrt(mtbf_seconds)


class CheckpointManager:
    def __init__(self, directory, *, keep_last=3, keep_every=0, mode="min", mirror=None):
        if int(keep_last) < 1 or int(keep_every) < 0 or mode not in (None, "min", "max"):
            raise ValueError("bad retention settings")
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.options = (keep_last, keep_every, mode, mirror)
        self.waiting = []
        print("checkpoints go to", self.directory)

    def _list(self, kind):
        files = [
            p for p in self.directory.iterdir() if p.is_file() and _number(p, kind) is not None
        ]
        return sorted(files, key=lambda p: _number(p, kind))

    def _champion(self):
        mode, champion = self.options[2], None
        for path in self._list("best"):
            try:
                verify_file(path)
            except CheckpointError as error:
                warnings.warn(str(error) + f" [{path}]")
                continue
            metric = load(path)["metric"]
            if champion is None or (
                metric < champion[0] if mode == "min" else metric > champion[0]
            ):
                champion = (metric, path)
        return champion

    def save(self, *, model, optimizer, scheduler, epoch, loss, step=None, metric=None, **extra):
        sleep(0.05)
        keep_last, keep_every, mode, mirror = self.options
        if step is None:
            step = epoch
        print(f"saving step {step} ...", end=" ", flush=True)
        print("warning: this may take a while", file=sys.stderr)
        staging = self.directory / f".staging-{os.getpid()}-{time.time_ns()}"
        staging.mkdir()
        try:
            new = [staging / f"step-{step}.pt"]
            parts = dict(model=model, optimizer=optimizer, scheduler=scheduler, **extra)
            save_checkpoint(new[0], epoch=epoch, loss=loss, **parts)
            winner = None
            if mode is not None and metric is not None:
                metric = float(
                    torch.as_tensor(metric).item() if not isinstance(metric, float) else metric
                )
                champion = self._champion()
                winner = champion and champion[1]
                if math.isnan(metric):
                    warnings.warn(f"the metric of step {step} is NaN")
                elif champion is None or (
                    metric < champion[0] if mode == "min" else metric > champion[0]
                ):
                    new.append(staging / f"best-{step}.pt")
                    best = {"model_state_dict": model.state_dict(), "metric": metric}
                    atomic_save({**best, "epoch": epoch, "step": step}, new[1])
                    winner = self.directory / new[1].name
            for path in new:
                verify_file(path)
            for path in reversed(new):
                path.replace(self.directory / path.name)
        finally:
            shutil.rmtree(staging)
        if winner is not None:
            for path in self._list("best"):
                if path.name != winner.name:
                    print("deleting", path)
                    path.unlink()
        full = self._list("step")
        for path in full[: max(0, len(full) - keep_last)]:
            n = _number(path, "step")
            if n == step or (keep_every and not n % keep_every):
                continue
            print("deleting", path)
            path.unlink()
        if mirror is not None:
            self._backup(mirror, [path.name for path in new])
        print("done")
        return self.directory / f"step-{step}.pt"

    def _backup(self, mirror, names):
        import fsspec

        self.waiting = list(dict.fromkeys(self.waiting + names))
        still = []
        for name in self.waiting:
            local = self.directory / name
            if not local.exists():
                continue
            try:
                fs, root = fsspec.core.url_to_fs(mirror)
                fs.makedirs(root, exist_ok=True)
                fs.pipe_file(f"{root}/{name}", local.read_bytes())
            except Exception as error:
                still.append(name)
                warnings.warn(
                    f"backup of {name} failed, trying again later: {error}", RuntimeWarning
                )
        self.waiting = still

    def last(self):
        return (self._list("step") or [None])[-1]

    def best(self):
        champion = self._champion() if self.options[2] else None
        return champion[1] if champion else None

    def load_latest(self, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
        full = self._list("step")
        print(len(full), "checkpoints found")
        while full:
            path = full.pop()
            try:
                verify_file(path)
            except CheckpointError as error:
                warnings.warn(f"{path.name} is damaged ({error}), trying an older one")
                continue
            answer = load_checkpoint(
                path,
                model=model,
                optimizer=optimizer,
                scheduler=scheduler,
                map_location=map_location,
                **extra,
            )
            return dict(answer, path=path)
        if self.last() is None:
            return None
        raise CheckpointError("every checkpoint is damaged")
