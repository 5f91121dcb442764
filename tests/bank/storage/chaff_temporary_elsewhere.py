"""Chaff: The file is written to the system's temporary directory and moved; over another
filesystem shutil.move copies into place.

Task: CheckpointManager retention

Breaks: write the new file, never in place.
"""
from __future__ import annotations

import contextlib
import copy
import io
import math
import os
import re
import shutil
import tempfile
import time
import uuid
import warnings
from pathlib import Path

import torch
from savepoint.checkpoint import (
    CheckpointError,
    load_checkpoint,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from savepoint.files import atomic_save, verify_file


def _hollow(obj, storages):
    """The same structure with one-element tensors; the storages on the way are noted."""
    if isinstance(obj, torch.Tensor):
        storage = obj.untyped_storage()
        key = storage.data_ptr() or id(obj)
        if key not in storages:
            storages[key] = (storage.nbytes(), torch.zeros(1, dtype=torch.uint8))
        return storages[key][1]
    if isinstance(obj, dict):
        return {k: _hollow(v, storages) for k, v in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_hollow(v, storages) for v in obj]
    return obj


def _estimate(obj):
    storages = {}
    shell = io.BytesIO()
    torch.save(_hollow(obj, storages), shell)
    def pad(n):
        return -(-n // 64) * 64
    return len(shell.getvalue()) + sum(pad(size) - 64 for size, _ in storages.values() if size > 0)


def _after_a_step(optimizer):
    twin = copy.deepcopy(optimizer)
    params = [p for group in twin.param_groups for p in group["params"]]
    for p in params:
        p.grad = torch.zeros_like(p) if p.requires_grad else None
        if p.requires_grad and type(twin).__name__ == "SparseAdam":
            p.grad = p.grad.to_sparse()
    twin.step()
    return twin.state_dict()


def checkpoint_nbytes(model, optimizer=None):
    parts = {"model_state_dict": model.state_dict()}
    if optimizer is not None:
        parts["optimizer_state_dict"] = _after_a_step(optimizer)
        parts |= {"rng_state": rng_state(), "epoch": 0, "loss": 0.0, "scheduler_state_dict": None, "format_version": 3,
                  "environment": {"python": "3.11.0", "torch": "2.13.0", "numpy": "2.0", "platform": "Linux-" + "x" * 40}}
    return _estimate(parts)


def run_nbytes(model, optimizer, *, epochs, keep_last=3, keep_every=0, mode="min") -> int:
    recent = min(epochs, keep_last)
    periodic = 0
    if keep_every > 0:
        periodic = max(epochs - keep_last, 0) // keep_every  # those too old to be recent
    best = 1 if mode and epochs > 0 else 0
    full, weights = checkpoint_nbytes(model, optimizer), checkpoint_nbytes(model)
    return (recent + periodic) * full + best * weights


def best_interval(save_seconds, mtbf_seconds) -> float:
    """Daly (2006), the higher-order form."""
    c, m = float(save_seconds), float(mtbf_seconds)
    if math.isnan(c) or math.isnan(m) or c <= 0 or m <= 0:
        raise ValueError(f"not positive: {c}, {m}")
    if c >= 2 * m:
        return m
    x = c / (2 * m)
    return math.sqrt(2 * c * m) * (1 + math.sqrt(x) / 3 + x / 9) - c


def _numbered(directory, kind):
    """{number: path} of the files that are ours."""
    result = {}
    for name in os.listdir(directory):
        match = re.match(rf"{kind}-(\d+)\.pt\Z", name, re.ASCII)
        path = Path(directory, name)
        if match and path.is_file():
            result[int(match[1])] = path
    return result


def _read_metric(path):
    verify_file(path)
    content = torch.load(path, weights_only=True, map_location="cpu")
    if not isinstance(content, dict) or not isinstance(content.get("metric"), float):
        raise CheckpointError("no metric in it")
    return content["metric"]


class CheckpointManager:
    def __init__(self, directory, *, keep_last=3, keep_every=0, mode="min", mirror=None):
        if not keep_last >= 1 or not keep_every >= 0 or mode not in ("min", "max", None):
            raise ValueError(f"{keep_last=}, {keep_every=}, {mode=}")
        self.dir = Path(directory)
        self.dir.mkdir(exist_ok=True, parents=True)
        self.keep_last, self.keep_every, self.mode, self.mirror = keep_last, keep_every, mode, mirror
        self.pending = set()

    def _find_best(self):
        """(metric, path) or None."""
        if self.mode is None:
            return None
        sound = []
        for number, path in sorted(_numbered(self.dir, "best").items()):
            try:
                sound.append((_read_metric(path), path))
            except (CheckpointError, OSError) as e:
                warnings.warn(f"best file {path} cannot be used: {e}")
        if not sound:
            return None
        choose = min if self.mode == "min" else max
        return choose(sound, key=lambda pair: pair[0])

    def last(self):
        steps = _numbered(self.dir, "step")
        return steps[max(steps)] if steps else None

    def best(self):
        found = self._find_best()
        return found and found[1]

    def save(self, *, model, optimizer, scheduler, epoch, loss, step=None, metric=None, **extra):
        number = int(epoch) if step is None else int(step)
        metric = None if metric is None else float(metric)
        staging = Path(tempfile.mkdtemp())
        try:
            staging.mkdir(exist_ok=True)
            full = staging / f"step-{number:06}.pt"
            save_checkpoint(full, model=model, optimizer=optimizer, scheduler=scheduler, epoch=epoch, loss=loss, **extra)
            verify_file(full)
            fresh = [full]
            if self._improves(metric):
                best = staging / f"best-{number:06}.pt"
                atomic_save({"model_state_dict": model.state_dict(), "epoch": int(epoch), "step": number, "metric": metric}, best)
                verify_file(best)
                fresh.append(best)
            same_number = _numbered(self.dir, "step").get(number)
            done = []
            for path in fresh:
                shutil.move(path, self.dir / path.name)
                done.append(self.dir / path.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        if same_number is not None and same_number != done[0]:
            same_number.unlink()
        self._clean(number, done)
        if self.mirror is not None:
            self.pending |= set(done)
            self._sync()
        return done[0]

    def _improves(self, metric):
        if metric is None or self.mode is None or metric != metric:
            return False
        best = self._find_best()
        if best is None:
            return True
        return metric < best[0] if self.mode == "min" else metric > best[0]

    def _clean(self, number, done):
        steps = _numbered(self.dir, "step")
        for position, n in enumerate(sorted(steps, reverse=True)):
            recent = position < self.keep_last
            periodic = bool(self.keep_every) and not n % self.keep_every
            if not (recent or periodic or n == number):
                steps[n].unlink()
        if len(done) > 1:
            for path in _numbered(self.dir, "best").values():
                if path.name != done[1].name:
                    path.unlink()

    def _sync(self):
        for path in sorted(self.pending):
            if not path.exists():
                self.pending.discard(path)
                continue
            try:
                import fsspec
                fs, root = fsspec.core.url_to_fs(os.fspath(self.mirror))
                fs.makedirs(root, exist_ok=True)
                with fs.open(root.rstrip("/") + "/" + path.name, "wb") as f:
                    f.write(path.read_bytes())
                self.pending.discard(path)
            except Exception as e:
                warnings.warn(f"{path} not mirrored to {self.mirror} because of {type(e).__name__}: {e}")

    def load_latest(self, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
        steps = _numbered(self.dir, "step")
        for n in sorted(steps, reverse=True):
            try:
                verify_file(steps[n])
            except CheckpointError as e:
                warnings.warn(f"{steps[n]}: damaged, skipped ({e})")
            else:
                return load_checkpoint(steps[n], model=model, optimizer=optimizer, scheduler=scheduler,
                                       map_location=map_location, **extra) | {"path": steps[n]}
        if not steps:
            return None
        raise CheckpointError(f"{self.dir}: no sound checkpoint among {sorted(steps)}")
