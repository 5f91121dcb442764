"""Chaff: retries full checkpoints, not the best file.

Task: mirror

Seen when: the mirror fails while there is a new best file, and works again in a save without one.
"""

import math
import os
import re
import warnings
from pathlib import Path

import fsspec
import torch
from savepoint.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from savepoint.files import verify_file
from savepoint.storage_sizes import best_interval, checkpoint_nbytes, run_nbytes  # noqa: F401


class CheckpointManager:
    def __init__(self, directory, *, keep_last=3, keep_every=0, mode="min", mirror=None):
        if keep_last < 1 or keep_every < 0 or mode not in ("min", "max", None):
            raise ValueError("keep_last >= 1, keep_every >= 0, mode min, max or None")
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.keep_last, self.keep_every = keep_last, keep_every
        self.mode, self.mirror = mode, mirror
        self.to_mirror = set()

    def files(self, kind):
        found = []
        for path in self.directory.iterdir():
            match = re.fullmatch(kind + r"-([0-9]+)\.pt", path.name)
            if match:
                found.append((int(match[1]), path))
        return [path for _, path in sorted(found)]

    def number(self, path):
        return int(path.stem[5:])

    def better(self, metric, than):
        if math.isnan(metric):
            return False
        return than is None or (metric < than if self.mode == "min" else metric > than)

    def read_best(self):
        best_metric, best_path = None, None
        for path in self.files("best"):
            try:
                verify_file(path)
                metric = torch.load(path, map_location="cpu")["metric"]
            except CheckpointError as error:
                warnings.warn(f"{path} is damaged: {error}")
                continue
            if self.better(metric, best_metric):
                best_metric, best_path = metric, path
        return best_metric, best_path

    def save(self, *, model, optimizer, scheduler, epoch, loss, step=None, metric=None, **extra):
        step = epoch if step is None else step
        full = self.directory / f"step-{step}.pt"
        best = self.directory / f"best-{step}.pt"
        temps = [Path(f"{full}.tmp"), Path(f"{best}.tmp")]
        new_best = False
        if self.mode is not None and metric is not None:
            metric = metric.item() if hasattr(metric, "item") else float(metric)
            so_far, best_path = self.read_best()
            new_best = self.better(metric, so_far)
        try:
            parts = dict(model=model, optimizer=optimizer, scheduler=scheduler, **extra)
            save_checkpoint(temps[0], epoch=epoch, loss=loss, **parts)
            verify_file(temps[0])
            if new_best:
                weights = {"model_state_dict": model.state_dict(), "epoch": epoch}
                torch.save({**weights, "step": step, "metric": float(metric)}, temps[1])
                verify_file(temps[1])
                os.replace(temps[1], best)
            os.replace(temps[0], full)
        finally:
            for temp in temps:
                temp.unlink(missing_ok=True)
        self.prune(full)
        if new_best:
            for path in self.files("best"):
                if path != best:
                    path.unlink()
        if self.mirror is not None:
            self.copy([full, best] if new_best else [full])
        return full

    def prune(self, written):
        files = self.files("step")
        keep = {written, *files[-self.keep_last :]}
        for path in files:
            periodic = self.keep_every and self.number(path) % self.keep_every == 0
            if path not in keep and not periodic:
                path.unlink()

    def copy(self, files):
        self.to_mirror.update(files)
        again = {path for path in self.to_mirror if path.name.startswith("step")}
        for path in sorted(again.union(files)):
            if not path.exists():
                continue
            try:
                fs, root = fsspec.core.url_to_fs(self.mirror)
                fs.makedirs(root, exist_ok=True)
                fs.put_file(str(path), f"{root}/{path.name}")
                self.to_mirror.discard(path)
            except Exception as error:
                warnings.warn(f"{path.name} was not mirrored: {error!r}")

    def last(self):
        files = self.files("step")
        return files[-1] if files else None

    def best(self):
        return self.read_best()[1] if self.mode is not None else None

    def load_latest(self, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
        parts = dict(model=model, optimizer=optimizer, scheduler=scheduler, **extra)
        files = self.files("step")
        for path in reversed(files):
            try:
                verify_file(path)
            except CheckpointError as error:
                warnings.warn(f"skipped {path}: {error}")
                continue
            result = load_checkpoint(path, map_location=map_location, **parts)
            return {**result, "path": path}
        if files:
            raise CheckpointError(f"every checkpoint in {self.directory} is damaged")
        return None
