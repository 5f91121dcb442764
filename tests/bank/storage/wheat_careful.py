"""Wheat: over-careful: measures a real save, reads back twice, remembers metrics it has read."""

import copy
import math
import os
import re
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import savepoint.checkpoint as checkpoint
import savepoint.files as files
import torch
from savepoint.checkpoint import CheckpointError


def checkpoint_nbytes(model, optimizer=None):
    """Save a copy for real, and look at the file."""
    generators = checkpoint.rng_state()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.pt"
        try:
            if optimizer is None:
                torch.save({"model_state_dict": model.state_dict(), "epoch": 0, "step": 0}, path)
            else:
                memo = {}
                model_copy = copy.deepcopy(model, memo)
                optimizer_copy = copy.deepcopy(optimizer, memo)
                for group in optimizer_copy.param_groups:
                    for parameter in group["params"]:
                        parameter.grad = None
                        if parameter.requires_grad:
                            gradient = torch.rand_like(parameter)  # the generators are put back
                            sparse = isinstance(optimizer, torch.optim.SparseAdam)
                            parameter.grad = gradient.to_sparse() if sparse else gradient
                optimizer_copy.step()
                checkpoint.save_checkpoint(
                    path,
                    model=model_copy,
                    optimizer=optimizer_copy,
                    scheduler=None,
                    epoch=0,
                    loss=0.0,
                )
            return path.stat().st_size
        finally:
            checkpoint.set_rng_state(generators)


def run_nbytes(model, optimizer, *, epochs, keep_last=3, keep_every=0, mode="min"):
    if epochs < 0:
        raise ValueError("epochs")
    count = 0
    for number in range(1, epochs + 1):
        recent = number >= epochs - keep_last + 1
        periodic = keep_every != 0 and number % keep_every == 0
        count += recent or periodic
    full = checkpoint_nbytes(model, optimizer)
    best = 0 if mode is None or epochs == 0 else checkpoint_nbytes(model, None)
    return int(count * full + best)


def best_interval(save_seconds, mtbf_seconds):
    if not (np.isreal(save_seconds) and save_seconds > 0):
        raise ValueError("save_seconds must be positive")
    if not (np.isreal(mtbf_seconds) and mtbf_seconds > 0):
        raise ValueError("mtbf_seconds must be positive")
    return float(np.sqrt(2 * save_seconds * mtbf_seconds))


class CheckpointManager:
    """Metrics of best files are read once, and trusted while the file is there."""

    def __init__(self, directory, *, keep_last=3, keep_every=0, mode="min", mirror=None):
        if not keep_last >= 1:
            raise ValueError("keep_last must be at least 1")
        if not keep_every >= 0:
            raise ValueError("keep_every must be at least 0")
        if not (mode is None or mode in ("min", "max")):
            raise ValueError("mode must be min, max or None")
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._keep_last = int(keep_last)
        self._keep_every = int(keep_every)
        self._mode = mode
        self._mirror = mirror
        self._metrics = {}
        self._mirror_queue = {}

    def _inventory(self, prefix):
        inventory = []
        for path in self._directory.iterdir():
            match = re.match(r"\A" + prefix + r"-([0-9]+)\.pt\Z", path.name)
            if match is not None and path.is_file():
                inventory.append((int(match.group(1)), path))
        inventory.sort(key=lambda item: item[0])
        return inventory

    def _metric_of(self, path):
        if path not in self._metrics:
            try:
                files.verify_file(path)
                self._metrics[path] = float(torch.load(path, map_location="cpu")["metric"])
            except (CheckpointError, KeyError, TypeError, ValueError) as error:
                warnings.warn(
                    f"best checkpoint {path} is unusable: {error}", UserWarning, stacklevel=4
                )
                return math.nan
        return self._metrics[path]

    def _is_better(self, challenger, champion):
        if math.isnan(challenger):
            return False
        if champion is None or math.isnan(champion):
            return True
        return challenger < champion if self._mode == "min" else challenger > champion

    def _find_best(self):
        best_metric, best_path = None, None
        for _, path in self._inventory("best"):
            metric = self._metric_of(path)
            if self._is_better(metric, best_metric):
                best_metric, best_path = metric, path
        return best_metric, best_path

    def _write_safely(self, write, final):
        temporary = self._directory / f"tmp-{os.getpid()}-{final.name}.partial"
        try:
            write(temporary)
            files.verify_file(temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            torch.load(temporary, map_location="cpu", weights_only=True)
        except BaseException:
            with suppress(FileNotFoundError):
                temporary.unlink()
            raise
        return temporary, final

    def save(self, *, model, optimizer, scheduler, epoch, loss, step=None, metric=None, **extra):
        number = int(epoch) if step is None else int(step)
        full_path = self._directory / f"step-{number:03d}.pt"
        best_path = self._directory / f"best-{number:03d}.pt"

        def write_full(path):
            checkpoint.save_checkpoint(
                path,
                model=model,
                optimizer=optimizer,
                scheduler=scheduler,
                epoch=epoch,
                loss=loss,
                **extra,
            )

        def write_best(path):
            content = {"model_state_dict": model.state_dict(), "epoch": int(epoch), "step": number}
            torch.save({**content, "metric": value}, path)

        value = math.nan
        current_metric, current_path = None, None
        if self._mode is not None and metric is not None:
            value = float(
                np.asarray(metric.detach().cpu() if torch.is_tensor(metric) else metric).item()
            )
            current_metric, current_path = self._find_best()
        wins = self._mode is not None and self._is_better(value, current_metric)

        staged = [self._write_safely(write_full, full_path)]
        if wins:
            try:
                staged.append(self._write_safely(write_best, best_path))
            except BaseException:
                staged[0][0].unlink()
                raise
        for temporary, final in staged:
            os.replace(temporary, final)

        if wins:
            self._metrics[best_path] = value
            current_path = best_path
        if current_path is not None:
            for _, path in self._inventory("best"):
                if path != current_path:
                    path.unlink()

        inventory = self._inventory("step")
        protected = {full_path} | {path for _, path in inventory[-self._keep_last :]}
        if self._keep_every > 0:
            protected |= {path for n, path in inventory if n % self._keep_every == 0}
        for _, path in inventory:
            if path not in protected:
                path.unlink()

        if self._mirror is not None:
            for _, final in staged:
                self._mirror_queue[final.name] = final
            self._flush_queue()
        return full_path

    def _flush_queue(self):
        for name, path in list(self._mirror_queue.items()):
            if not path.exists():
                del self._mirror_queue[name]
                continue
            try:
                import fsspec

                with fsspec.open(
                    f"{self._mirror.rstrip('/')}/{name}", "wb", auto_mkdir=True
                ) as remote:
                    remote.write(path.read_bytes())
                del self._mirror_queue[name]
            except Exception as error:
                message = f"could not mirror {name} ({type(error).__name__}: {error})"
                warnings.warn(message, RuntimeWarning, stacklevel=3)

    def last(self):
        inventory = self._inventory("step")
        return inventory[-1][1] if inventory else None

    def best(self):
        if self._mode is None:
            return None
        return self._find_best()[1]

    def load_latest(self, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
        inventory = self._inventory("step")
        if not inventory:
            return None
        for _, path in reversed(inventory):
            try:
                files.verify_file(path)
            except CheckpointError as error:
                warnings.warn(f"checkpoint {path} is damaged and is skipped: {error}", stacklevel=2)
                continue
            result = checkpoint.load_checkpoint(
                path,
                model=model,
                optimizer=optimizer,
                scheduler=scheduler,
                map_location=map_location,
                **extra,
            )
            result = dict(result)
            result["path"] = path
            return result
        raise CheckpointError(f"{len(inventory)} checkpoints, none of them readable")
