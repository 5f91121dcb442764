"""Chaff: Whatever int() accepts is a number, so `step-1_0.pt` counts.

Task: CheckpointManager retention

Breaks: any other file in the directory is somebody else's: not read, not deleted.
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


class _Counter(io.RawIOBase):
    """A file that only counts."""

    def __init__(self):
        self.at = self.end = 0

    def writable(self):
        return True

    def write(self, data):
        self.at += len(memoryview(data).cast("B"))
        self.end = max(self.end, self.at)
        return len(memoryview(data).cast("B"))


def _count(obj):
    counter = _Counter()
    torch.save(obj, counter)
    return counter.end


def _dry_state(optimizer, device):
    """The optimizer's state dict after a step, on tensors that hold no data where the optimizer can do that."""
    memo = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            double = torch.nn.Parameter(torch.zeros_like(p, device=device), requires_grad=p.requires_grad)
            if p.requires_grad:
                grad = torch.zeros_like(double)
                double.grad = grad.to_sparse() if isinstance(optimizer, torch.optim.SparseAdam) else grad
            memo[id(p)] = double
            for value in optimizer.state.get(p, {}).values():
                if isinstance(value, torch.Tensor) and value.dim() > 0:
                    memo[id(value)] = torch.zeros_like(value, device=device)
    double = copy.deepcopy(optimizer, memo)
    double.step()
    return double.state_dict()


def _materialised(obj):
    if isinstance(obj, torch.Tensor):
        return torch.empty_like(obj, device="cpu") if obj.is_meta else obj
    if isinstance(obj, dict):
        return {k: _materialised(v) for k, v in obj.items()}
    if isinstance(obj, (list, tuple)):
        return type(obj)(_materialised(v) for v in obj)
    return obj


def checkpoint_nbytes(model, optimizer=None) -> int:
    weights = model.state_dict()
    if optimizer is None:
        return _count({"model_state_dict": weights})
    try:
        state = _dry_state(optimizer, "meta")
    except Exception:  # some optimizers look at values
        state = _dry_state(optimizer, "cpu")
    return _count({
        "epoch": 0, "model_state_dict": weights, "optimizer_state_dict": _materialised(state),
        "scheduler_state_dict": None, "loss": 0.0, "rng_state": rng_state(),
        "format_version": 3, "environment": dict.fromkeys(("python", "torch", "numpy", "platform"), "x" * 20),
    })


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


class CheckpointManager:
    """Reads the directory once, at the first question, and keeps books from then on; names are zero-padded."""

    def __init__(self, directory, *, keep_last=3, keep_every=0, mode="min", mirror=None):
        problems = []
        if keep_last < 1:
            problems.append(f"keep_last={keep_last}")
        if keep_every < 0:
            problems.append(f"keep_every={keep_every}")
        if not (mode is None or mode == "min" or mode == "max"):
            problems.append(f"mode={mode!r}")
        if problems:
            raise ValueError("; ".join(problems))
        self._dir = Path(directory)
        os.makedirs(self._dir, exist_ok=True)
        self._keep_last = keep_last
        self._keep_every = keep_every
        self._sign = {"min": 1.0, "max": -1.0, None: None}[mode]
        self._mirror = mirror
        self._late: dict[str, Path] = {}
        self._full: dict[int, Path] | None = None
        self._best: tuple[float, Path] | None = None
        self._stale_best: list[Path] = []

    # -- the books
    @staticmethod
    def _number(name, kind):
        stem, dot, suffix = name.partition(".")
        prefix, dash, digits = stem.partition("-")
        if (prefix, dash, suffix) == (kind, "-", "pt"):
            try:
                return int(digits)
            except ValueError:
                pass
        return None

    def _open_books(self):
        if self._full is not None:
            return
        self._full = {}
        candidates = []
        for entry in sorted(os.scandir(self._dir), key=lambda e: e.name):
            number = self._number(entry.name, "step")
            if number is not None and entry.is_file():
                self._full[number] = Path(entry.path)
            number = self._number(entry.name, "best")
            if number is not None and entry.is_file() and self._sign is not None:
                candidates.append((number, Path(entry.path)))
        scored = []
        for number, path in candidates:
            try:
                verify_file(path)
                metric = float(torch.load(path, weights_only=True, map_location="cpu")["metric"])
                if metric != metric:
                    raise ValueError("a NaN metric")
            except Exception as error:
                warnings.warn(f"the best file {path} is damaged ({error}); it counts as none")
                self._stale_best.append(path)
            else:
                scored.append((self._sign * metric, number, path))
        if scored:
            scored.sort()
            self._best = scored[0][0], scored[0][2]
            self._stale_best += [path for _, _, path in scored[1:]]

    def last(self):
        self._open_books()
        return self._full[max(self._full)] if self._full else None

    def best(self):
        self._open_books()
        return self._best[1] if self._best else None

    # -- saving
    def save(self, *, model, optimizer, scheduler, epoch, loss, step=None, metric=None, **extra):
        self._open_books()
        if step is None:
            step = epoch
        step = int(step)
        score = None
        if metric is not None and self._sign is not None:
            score = self._sign * float(metric)
            if math.isnan(score) or (self._best is not None and not score < self._best[0]):
                score = None
        target = self._dir / f"step-{step:09d}.pt"
        best_target = self._dir / f"best-{step:09d}.pt"
        with contextlib.ExitStack() as cleanup:
            staged, staged_best = self._stage(cleanup, "full"), self._stage(cleanup, "best")
            save_checkpoint(staged, model=model, optimizer=optimizer, scheduler=scheduler, epoch=epoch, loss=loss, **extra)
            verify_file(staged)
            if score is not None:
                atomic_save(dict(model_state_dict=model.state_dict(), epoch=int(epoch), step=step,
                                 metric=float(metric)), staged_best)
                verify_file(staged_best)
            os.replace(staged, target)
            if score is not None:
                os.replace(staged_best, best_target)
        # all is safe: the books, then the deletions
        obsolete = []
        if self._full.get(step, target) != target:
            obsolete.append(self._full[step])
        self._full[step] = target
        if score is not None:
            obsolete += self._stale_best
            if self._best is not None:
                obsolete.append(self._best[1])
            obsolete = [path for path in obsolete if path != best_target]
            self._best, self._stale_best = (score, best_target), []
        recent = sorted(self._full, reverse=True)[:self._keep_last]
        for number in list(self._full):
            periodic = self._keep_every > 0 and number % self._keep_every == 0
            if number not in recent and not periodic and number != step:
                obsolete.append(self._full.pop(number))
        for path in obsolete:
            path.unlink(missing_ok=True)
        if self._mirror is not None:
            self._send([target] + ([best_target] if score is not None else []))
        return target

    def _stage(self, cleanup, kind):
        path = self._dir / f".{kind}.incoming.pt"
        cleanup.callback(lambda: path.unlink(missing_ok=True))
        return path

    def _send(self, new):
        queue = {**self._late, **{path.name: path for path in new}}
        self._late = {}
        for name, path in queue.items():
            if not path.exists():
                continue
            try:
                self._send_one(path)
            except Exception as error:
                self._late[name] = path
                warnings.warn(f"mirror {self._mirror}: {name} was not copied ({error!r}); it is tried again at the next save")

    def _send_one(self, path):
        import fsspec
        url = str(self._mirror).rstrip("/") + "/" + path.name
        filesystem, inside = fsspec.core.url_to_fs(url)
        filesystem.makedirs(filesystem._parent(inside), exist_ok=True)
        with open(path, "rb") as source, fsspec.open(url, "wb") as sink:
            shutil.copyfileobj(source, sink)

    # -- loading
    def load_latest(self, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
        self._open_books()
        damaged = []
        for number in sorted(self._full, reverse=True):
            path = self._full[number]
            try:
                verify_file(path)
            except CheckpointError:
                damaged.append(path)
                warnings.warn(f"{path} is damaged; trying an older one")
                continue
            found = load_checkpoint(path, model=model, optimizer=optimizer, scheduler=scheduler, map_location=map_location, **extra)
            found["path"] = str(path)
            return found
        if damaged:
            raise CheckpointError("every checkpoint is damaged: " + ", ".join(map(str, damaged)))
        return None
