"""Chaff: `if mode and …`: an empty string passes as no mode.

Task: CheckpointManager retention

Breaks: `mode` is "min", "max" or None, otherwise ValueError.
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


def _saved_size(obj):
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    return buffer.getbuffer().nbytes


def checkpoint_nbytes(model, optimizer=None):
    """By doing it: a copy of the optimizer takes a step, and the copy is saved."""
    if optimizer is None:
        return _saved_size({"model_state_dict": model.state_dict()})
    twin = copy.deepcopy(optimizer)
    for group in twin.param_groups:
        for p in group["params"]:
            p.grad = None
            if p.requires_grad:
                p.grad = torch.zeros_like(p).to_sparse() if isinstance(twin, torch.optim.SparseAdam) else torch.zeros_like(p)
    twin.step()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "size.pt"
        save_checkpoint(path, model=model, optimizer=twin, scheduler=None, epoch=0, loss=0.0)
        return path.stat().st_size


def run_nbytes(model, optimizer, *, epochs, keep_last=3, keep_every=0, mode="min"):
    if epochs <= 0:
        return 0
    kept = set(range(max(1, epochs - keep_last + 1), epochs + 1))
    if keep_every:
        kept |= set(range(keep_every, epochs + 1, keep_every))
    total = len(kept) * checkpoint_nbytes(model, optimizer)
    if mode is not None:
        total += checkpoint_nbytes(model)
    return total


def best_interval(save_seconds, mtbf_seconds):
    """Young (1974)."""
    for value in (save_seconds, mtbf_seconds):
        if not value > 0:
            raise ValueError("both must be positive")
    return math.sqrt(2 * save_seconds * mtbf_seconds)


_FULL = re.compile(r"step-([0-9]+)\.pt")
_BEST = re.compile(r"best-([0-9]+)\.pt")


class CheckpointManager:
    """Every question is answered from the directory itself; nothing is remembered but what the mirror lacks."""

    def __init__(self, directory, *, keep_last=3, keep_every=0, mode="min", mirror=None):
        if keep_last < 1:
            raise ValueError("keep_last must be at least 1")
        if keep_every < 0:
            raise ValueError("keep_every must not be negative")
        mode = mode or None
        if mode not in ("min", "max", None):
            raise ValueError(f"mode is 'min', 'max' or None, not {mode!r}")
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.keep_last, self.keep_every, self.mode, self.mirror = keep_last, keep_every, mode, mirror
        self._unmirrored = []

    def _scan(self, pattern):
        found = []
        for path in self.directory.iterdir():
            match = pattern.fullmatch(path.name)
            if match and path.is_file():
                found.append((int(match.group(1)), path))
        return sorted(found)

    def _metric_of(self, path):
        try:
            verify_file(path)
            metric = float(torch.load(path, map_location="cpu", weights_only=True)["metric"])
        except (CheckpointError, LookupError, TypeError, ValueError) as error:
            warnings.warn(f"{path} is damaged and counts as no best: {error}")
            return None
        return None if math.isnan(metric) else metric

    def _better(self, a, b):
        return a < b if self.mode == "min" else a > b

    def _best(self):
        best = None
        if self.mode is not None:
            for _, path in self._scan(_BEST):
                metric = self._metric_of(path)
                if metric is not None and (best is None or self._better(metric, best[0])):
                    best = metric, path
        return best

    def last(self):
        files = self._scan(_FULL)
        return files[-1][1] if files else None

    def best(self):
        best = self._best()
        return best[1] if best else None

    def _is_new_best(self, metric):
        if metric is None or self.mode is None:
            return False
        metric = float(metric)
        if math.isnan(metric):
            return False
        best = self._best()
        return best is None or self._better(metric, best[0])

    def save(self, *, model, optimizer, scheduler, epoch, loss, step=None, metric=None, **extra):
        step = int(epoch if step is None else step)
        full = self.directory / f"step-{step}.pt"
        best = self.directory / f"best-{step}.pt"
        new = []
        try:
            new.append((self.directory / ".saving-step.pt", full))
            save_checkpoint(new[-1][0], model=model, optimizer=optimizer, scheduler=scheduler, epoch=epoch, loss=loss, **extra)
            verify_file(new[-1][0])
            if self._is_new_best(metric):
                new.append((self.directory / ".saving-best.pt", best))
                atomic_save({"model_state_dict": model.state_dict(), "epoch": int(epoch), "step": step,
                             "metric": float(metric)}, new[-1][0])
                verify_file(new[-1][0])
            for temporary, final in new:
                os.replace(temporary, final)
        finally:
            for name in (".saving-step.pt", ".saving-best.pt"):
                (self.directory / name).unlink(missing_ok=True)
        self._prune(step, full, best if len(new) == 2 else None)
        self._copy_to_mirror([final for _, final in new])
        return full

    def _prune(self, step, full, new_best):
        files = self._scan(_FULL)
        numbers = sorted({number for number, _ in files})
        keep = set(numbers[-self.keep_last:]) | {step}
        if self.keep_every:
            keep |= {number for number in numbers if number % self.keep_every == 0}
        for number, path in files:
            if number not in keep or (number == step and path != full):
                path.unlink()
        if new_best is not None:
            for _, path in self._scan(_BEST):
                if path != new_best:
                    path.unlink()

    def _copy_to_mirror(self, paths):
        if self.mirror is None:
            return
        todo = [path for path in self._unmirrored if path.exists() and path not in paths] + paths
        self._unmirrored = []
        for path in todo:
            try:
                import fsspec
                filesystem, root = fsspec.core.url_to_fs(str(self.mirror))
                filesystem.makedirs(root, exist_ok=True)
                filesystem.put_file(str(path), f"{root.rstrip('/')}/{path.name}")
            except Exception as error:
                self._unmirrored.append(path)
                warnings.warn(f"could not copy {path.name} to {self.mirror}: {type(error).__name__}: {error}")

    def load_latest(self, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
        files = self._scan(_FULL)
        for _, path in reversed(files):
            try:
                verify_file(path)
            except CheckpointError as error:
                warnings.warn(f"skipping {path}: {error}")
                continue
            result = load_checkpoint(path, model=model, optimizer=optimizer, scheduler=scheduler,
                                     map_location=map_location, **extra)
            return {**result, "path": path}
        if files:
            raise CheckpointError(f"all {len(files)} checkpoints in {self.directory} are damaged")
        return None
