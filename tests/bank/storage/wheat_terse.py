"""Wheat: as short as it gets; sizes by saving deep copies into a counter."""

import contextlib
import copy
import math
import os
import re
import warnings
from pathlib import Path

import fsspec
import torch
from savepoint.checkpoint import CheckpointError, load_checkpoint, rng_state, save_checkpoint
from savepoint.files import verify_file


class Counter:
    n = 0

    def write(self, data):
        self.n += len(data)
        return len(data)

    def flush(self):
        pass


def checkpoint_nbytes(model, optimizer=None):
    model, opt = copy.deepcopy((model, optimizer))
    out = {"model_state_dict": model.state_dict()}
    if opt is not None:
        for p in (p for g in opt.param_groups for p in g["params"]):
            p.grad = torch.zeros_like(p) if p.requires_grad else None
            if p.grad is not None and type(opt).__name__ == "SparseAdam":
                p.grad = p.grad.to_sparse()
        opt.step()
        out |= {"optimizer_state_dict": opt.state_dict(), "rng_state": rng_state()}
    torch.save(out, counter := Counter())
    return counter.n


def run_nbytes(model, optimizer, *, epochs, keep_last=3, keep_every=0, mode="min"):
    kept = set(range(max(1, epochs - keep_last + 1), epochs + 1))
    kept |= set(range(keep_every, epochs + 1, keep_every)) if keep_every else set()
    best = checkpoint_nbytes(model) if mode and epochs else 0
    return len(kept) * checkpoint_nbytes(model, optimizer) + best


def best_interval(save_seconds, mtbf_seconds):
    if not min(save_seconds, mtbf_seconds) > 0 or math.isnan(save_seconds + mtbf_seconds):
        raise ValueError("C and M must be positive")
    return (2 * save_seconds * mtbf_seconds) ** 0.5


class CheckpointManager:
    def __init__(self, directory, *, keep_last=3, keep_every=0, mode="min", mirror=None):
        if keep_last < 1 or keep_every < 0 or mode not in {"min", "max", None}:
            raise ValueError((keep_last, keep_every, mode))
        os.makedirs(directory, exist_ok=True)
        self.d, self.n, self.k, self.mode, self.url = (
            Path(directory),
            keep_last,
            keep_every,
            mode,
            mirror,
        )
        self.todo = set()

    def _ls(self, kind):
        hits = ((re.fullmatch(rf"{kind}-(\d+)\.pt", f), f) for f in os.listdir(self.d))
        return {int(m[1]): self.d / f for m, f in hits if m}

    def _best(self):
        best = math.nan, None
        for _, f in sorted(self._ls("best").items()):
            try:
                verify_file(f)
                m = torch.load(f)["metric"]
            except (CheckpointError, LookupError) as e:
                warnings.warn(f"{f}: {e}")
            else:
                best = (m, f) if self._wins(m, best[0]) else best
        return best

    def _wins(self, new, old):
        return new == new and (old != old or (new < old if self.mode == "min" else new > old))

    def save(self, *, model, optimizer, scheduler, epoch, loss, step=None, metric=None, **extra):
        n = epoch if step is None else step
        new = {f"step-{n}.pt": None}
        if self.mode and metric is not None:
            metric, (so_far, winner) = float(metric), self._best()
            if self._wins(metric, so_far):
                winner = self.d / f"best-{n}.pt"
                weights = model.state_dict()
                new[winner.name] = dict(
                    model_state_dict=weights, epoch=epoch, step=n, metric=metric
                )
        with contextlib.ExitStack() as stack:
            for name, obj in new.items():
                tmp = self.d / (name + "~")
                stack.callback(tmp.unlink, missing_ok=True)
                if obj is None:
                    save_checkpoint(
                        tmp,
                        model=model,
                        optimizer=optimizer,
                        scheduler=scheduler,
                        epoch=epoch,
                        loss=loss,
                        **extra,
                    )
                else:
                    torch.save(obj, tmp)
                verify_file(tmp)
            for name in new:
                os.replace(self.d / (name + "~"), self.d / name)
        files = self._ls("step")
        for i in sorted(files)[: -self.n]:
            if i != n and not (self.k and i % self.k == 0):
                files[i].unlink()
        if self.mode and metric is not None and winner:
            for f in self._ls("best").values():
                if f != winner:
                    f.unlink()
        if self.url:
            self.todo |= set(new)
            for name in sorted(f for f in self.todo if (self.d / f).exists()):
                try:
                    fs, root = fsspec.url_to_fs(self.url)
                    fs.makedirs(root, exist_ok=True)
                    fs.put(str(self.d / name), root + "/" + name)
                    self.todo.remove(name)
                except Exception as e:
                    warnings.warn(f"mirror: {name}: {e!r}")
        return self.d / f"step-{n}.pt"

    def last(self):
        files = self._ls("step")
        return files[max(files)] if files else None

    def best(self):
        return self._best()[1] if self.mode else None

    def load_latest(self, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
        files = self._ls("step")
        for _, f in sorted(files.items(), reverse=True):
            try:
                verify_file(f)
            except CheckpointError as e:
                warnings.warn(f"skipping {f}: {e}")
            else:
                return load_checkpoint(
                    f,
                    model=model,
                    optimizer=optimizer,
                    scheduler=scheduler,
                    map_location=map_location,
                    **extra,
                ) | {"path": f}
        if files:
            raise CheckpointError(f"nothing sound among {sorted(files)}")
