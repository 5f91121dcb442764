"""Wheat: zero-padded names, absolute paths, Daly's formula, a mirror that catches up by listing.

A first infinite metric is not best; a damaged best file stays where it is; step() on "meta".
"""

import copy
import math
import os
import re
import warnings
from pathlib import Path

import torch
from savepoint.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from savepoint.files import atomic_save, verify_file


class Sizer:
    def __init__(self):
        self.storages, self.rest = {}, 0

    def add(self, tensor):
        self.rest += 70
        storage = tensor.untyped_storage()
        self.storages[storage.data_ptr() or len(self.storages)] = storage.nbytes() + 200
        return self

    def add_state(self, tensor):
        self.rest += tensor.untyped_storage().nbytes() + 270

    @property
    def nbytes(self):
        return self.rest + sum(self.storages.values())


def _stepped_state(optimizer, group, parameter):
    plain = type(optimizer) in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    plain = plain and not torch.is_tensor(group["lr"])
    device = "meta" if plain else "cpu"  # others call .item()
    twin = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
    sparse = isinstance(optimizer, torch.optim.SparseAdam)
    twin.grad = torch.zeros(parameter.shape, dtype=parameter.dtype, device=device)
    if sparse:
        twin = torch.zeros(parameter.shape, dtype=parameter.dtype)
        twin.grad = torch.zeros_like(twin).to_sparse()
    fresh = copy.copy(optimizer)
    options = {"foreach": False, "fused": False, "capturable": False}
    fresh.param_groups = [
        group | {k: v for k, v in options.items() if k in group} | {"params": [twin]}
    ]
    fresh.state = type(optimizer.state)(dict)
    fresh.step()
    return fresh.state.get(twin, {})


def checkpoint_nbytes(model, optimizer=None):
    sizer = Sizer()
    for value in model.state_dict().values():
        if isinstance(value, torch.Tensor):
            sizer.add(value)
    sizer.rest += 50 * sum(1 for _ in model.modules())  # _metadata
    if optimizer is not None:
        sizer.rest += 15_000  # the generators
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter in optimizer.state:
                    state = optimizer.state[parameter]
                else:
                    state = (
                        _stepped_state(optimizer, group, parameter)
                        if parameter.requires_grad
                        else {}
                    )
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        sizer.add_state(value)
    return sizer.nbytes


def run_nbytes(model, optimizer, *, epochs, keep_last=3, keep_every=0, mode="min"):
    recent = min(epochs, keep_last)
    periodic = (epochs - recent) // keep_every if keep_every else 0
    total = (recent + periodic) * checkpoint_nbytes(model, optimizer)
    return total + (checkpoint_nbytes(model) if epochs > 0 and mode is not None else 0)


def best_interval(save_seconds, mtbf_seconds):
    c, m = float(save_seconds), float(mtbf_seconds)
    if math.isnan(c) or math.isnan(m) or c <= 0 or m <= 0:
        raise ValueError("save_seconds and mtbf_seconds have to be positive numbers")
    if c >= 2 * m:
        return m
    ratio = c / (2 * m)
    return math.sqrt(2 * c * m) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - c


class CheckpointManager:
    FULL = re.compile(r"step-([0-9]{8,})\.pt")
    BEST = re.compile(r"best-([0-9]{8,})\.pt")

    def __init__(self, directory, *, keep_last=3, keep_every=0, mode="min", mirror=None):
        if keep_last < 1:
            raise ValueError("keep_last")
        if keep_every < 0:
            raise ValueError("keep_every")
        if mode is not None and mode not in ("min", "max"):
            raise ValueError("mode")
        self.root = Path(os.path.abspath(directory))
        self.root.mkdir(parents=True, exist_ok=True)
        self.keep_last, self.keep_every = keep_last, keep_every
        self.sign = {"min": 1.0, "max": -1.0, None: None}[mode]
        self.mirror = mirror
        self.stale = set()

    def _find(self, pattern):
        found = {}
        with os.scandir(self.root) as entries:
            for entry in entries:
                match = pattern.fullmatch(entry.name)
                if match and entry.is_file():
                    found[int(match[1])] = self.root / entry.name
        return dict(sorted(found.items()))

    def _best_so_far(self):
        score, sound = math.inf, []
        for path in self._find(self.BEST).values():
            try:
                verify_file(path)
                found = torch.load(path, weights_only=True, map_location="cpu")
                value = self.sign * found["metric"]
                sound.insert(0 if value < score else len(sound), path)
                score = min(score, value)
            except (CheckpointError, KeyError, TypeError) as error:
                warnings.warn(
                    f"damaged best file {path.name}: {error}", RuntimeWarning, stacklevel=2
                )
        return score, sound

    def save(self, *, model, optimizer, scheduler, epoch, loss, step=None, metric=None, **extra):
        number = epoch if step is None else step
        target = self.root / f"step-{number:08d}.pt"
        best = None
        if self.sign is not None and metric is not None:
            value = metric.item() if hasattr(metric, "item") else float(metric)
            score, sound = self._best_so_far()
            if self.sign * value < score:
                best = self.root / f"best-{number:08d}.pt"
        staged = []
        try:
            if best is not None:
                temp = best.with_suffix(".new")
                staged.append((temp, best))
                content = {"step": number, "epoch": epoch, "metric": float(value)}
                content["model_state_dict"] = model.state_dict()
                atomic_save(content, temp)
                verify_file(temp)
            temp = target.with_suffix(".new")
            staged.append((temp, target))
            save_checkpoint(
                temp,
                model=model,
                optimizer=optimizer,
                scheduler=scheduler,
                epoch=epoch,
                loss=loss,
                **extra,
            )
            verify_file(temp)
            for temp, final in staged:
                os.replace(temp, final)
        finally:
            for temp, _ in staged:
                temp.unlink(missing_ok=True)
        if best is not None:
            for path in sound:
                if path != best:
                    path.unlink()
        if self.mirror:
            self._catch_up([final for _, final in staged])
        full = self._find(self.FULL)
        keep = {number, *list(full)[-self.keep_last :]}
        if self.keep_every:
            keep.update(n for n in full if n % self.keep_every == 0)
        for n in full.keys() - keep:
            full[n].unlink()
        return target

    def _catch_up(self, new):
        from fsspec.core import url_to_fs

        self.stale.update(path.name for path in new)
        try:
            fs, root = url_to_fs(self.mirror)
            fs.makedirs(root, exist_ok=True)
            there = {entry.rsplit("/", 1)[-1] for entry in fs.ls(root, detail=False)}
        except Exception as error:
            names = ", ".join(sorted(self.stale))
            warnings.warn(f"mirror unreachable, {names} not copied: {error!r}", stacklevel=3)
            return
        ours = [*self._find(self.FULL).values(), *self._find(self.BEST).values()]
        for path in ours:
            if path.name in self.stale or path.name not in there:
                self.stale.add(path.name)
                try:
                    with open(path, "rb") as source, fs.open(f"{root}/{path.name}", "wb") as sink:
                        while block := source.read(1 << 20):
                            sink.write(block)
                    self.stale.discard(path.name)
                except Exception as error:
                    warnings.warn(f"{path.name} not mirrored: {error!r}", stacklevel=3)

    def last(self):
        return next(reversed(self._find(self.FULL).values()), None)

    def best(self):
        return None if self.sign is None else next(iter(self._best_so_far()[1]), None)

    def load_latest(self, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
        candidates = list(self._find(self.FULL).values())[::-1]
        if not candidates:
            return None
        damaged = []
        for path in candidates:
            try:
                verify_file(path)
                break
            except CheckpointError as error:
                damaged.append(f"{path.name} ({error})")
        else:
            raise CheckpointError("all damaged: " + "; ".join(damaged))
        if damaged:
            warnings.warn("damaged and skipped: " + "; ".join(damaged), stacklevel=2)
        loaded = load_checkpoint(
            path,
            model=model,
            optimizer=optimizer,
            scheduler=scheduler,
            map_location=map_location,
            **extra,
        )
        loaded["path"] = path
        return loaded
