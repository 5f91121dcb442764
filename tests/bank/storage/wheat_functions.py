"""Wheat: plain functions under a thin class; a fresh optimizer from the group's own options."""

import inspect
import io
import math
import os
import warnings
from glob import escape, glob
from os.path import basename, exists, join
from pathlib import Path

import torch
from savepoint.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from savepoint.files import atomic_save, verify_file


def make_like(optimizer, group, twin):
    accepted = inspect.signature(type(optimizer)).parameters
    return type(optimizer)(
        [twin], **{k: v for k, v in group.items() if k in accepted and k != "params"}
    )


def new_state(optimizer, group, parameter):
    """One parameter's state after a step, in real memory."""
    twin = torch.nn.Parameter(torch.zeros_like(parameter))
    twin.grad = torch.zeros_like(twin)
    if isinstance(optimizer, torch.optim.SparseAdam):
        twin.grad = twin.grad.to_sparse()
    fresh = make_like(optimizer, group, twin)
    fresh.step()
    return dict(fresh.state[twin])


def dumped(obj):
    with io.BytesIO() as buffer:
        torch.save(obj, buffer)
        return buffer.tell()


def checkpoint_nbytes(model, optimizer=None):
    parts = {"model_state_dict": model.state_dict()}
    if optimizer is None:
        return dumped(parts)
    held = [(group, p) for group in optimizer.param_groups for p in group["params"]]
    parts["state"] = {
        i: optimizer.state.get(p) or new_state(optimizer, group, p)
        for i, (group, p) in enumerate(held)
        if p.requires_grad or p in optimizer.state
    }
    parts["param_groups"] = optimizer.state_dict()["param_groups"]
    parts["torch"] = torch.get_rng_state()
    return dumped(parts) + 9_000  # the other generators


def run_nbytes(model, optimizer, *, epochs, keep_last=3, keep_every=0, mode="min"):
    numbers = list(range(1, epochs + 1))
    kept = set(numbers[-keep_last:]) | {n for n in numbers if keep_every and n % keep_every == 0}
    weights = [checkpoint_nbytes(model)] if numbers and mode is not None else []
    return checkpoint_nbytes(model, optimizer) * len(kept) + sum(weights)


def best_interval(save_seconds, mtbf_seconds):
    if save_seconds > 0 and mtbf_seconds > 0:
        return math.exp(0.5 * (math.log(2) + math.log(save_seconds) + math.log(mtbf_seconds)))
    raise ValueError(f"not positive: {save_seconds}, {mtbf_seconds}")


def number_of(path):
    text = basename(path)[5:-3]
    return int(text) if text.isdecimal() and text.isascii() else -1


def numbered(directory, kind):
    found = [p for p in glob(join(escape(directory), kind + "-*.pt")) if number_of(p) >= 0]
    return sorted(found, key=number_of)


def is_damaged(path):
    try:
        verify_file(path)
    except CheckpointError as error:
        warnings.warn(f"damaged: {path}: {error}", stacklevel=3)
        return True
    return False


def best_of(directory, mode):
    """(metric, path) or None."""
    sound = [p for p in numbered(directory, "best") if not is_damaged(p)]
    scored = [(torch.load(p, map_location="cpu")["metric"], p) for p in sound]
    choose = min if mode == "min" else max
    return choose(scored, key=lambda pair: pair[0], default=None)


def to_delete(paths, keep_last, keep_every, just_written):
    for path in paths[:-keep_last]:
        periodic = keep_every > 0 and number_of(path) % keep_every == 0
        if path != just_written and not periodic:
            yield path


def replicate(directory, names, url):
    """The names that did not arrive."""
    failed = set()
    for name in sorted(names):
        local = join(directory, name)
        if exists(local):
            try:
                import fsspec

                fs, _, (root,) = fsspec.get_fs_token_paths(url)
                fs.mkdirs(root, exist_ok=True)
                fs.put_file(local, root + "/" + name)
            except Exception as error:
                failed.add(name)
                warnings.warn(f"not mirrored: {name}: {type(error).__name__} {error}", stacklevel=4)
    return failed


class CheckpointManager:
    def __init__(self, directory, *, keep_last=3, keep_every=0, mode="min", mirror=None):
        if keep_last < 1 or keep_every < 0 or (mode is not None and mode not in ["min", "max"]):
            raise ValueError(f"{keep_last=} {keep_every=} {mode=}")
        os.makedirs(directory, exist_ok=True)
        self.where, self.keep, self.mode, self.url = (
            str(directory),
            (keep_last, keep_every),
            mode,
            mirror,
        )
        self.failed = set()

    def save(self, *, model, optimizer, scheduler, epoch, loss, step=None, metric=None, **extra):
        number = epoch if step is None else step
        full, best = (join(self.where, f"{kind}-{number}.pt") for kind in ("step", "best"))
        scratch = join(self.where, "_writing_.bin")
        waiting = join(self.where, "_best_.bin")
        champion, crowned = None, False
        if self.mode is not None and metric is not None:
            metric = float(metric)
            champion = best_of(self.where, self.mode)
            sign = -1 if self.mode == "max" else 1
            crowned = metric == metric and (champion is None or sign * metric < sign * champion[0])
        try:
            save_checkpoint(
                scratch,
                model=model,
                optimizer=optimizer,
                scheduler=scheduler,
                epoch=epoch,
                loss=loss,
                **extra,
            )
            verify_file(scratch)
            if crowned:
                content = {"epoch": epoch, "step": number, "metric": metric}
                atomic_save({**content, "model_state_dict": model.state_dict()}, waiting)
                verify_file(waiting)
                os.replace(waiting, best)
            os.replace(scratch, full)
        finally:
            for leftover in (scratch, waiting):
                if exists(leftover):
                    os.remove(leftover)
        for path in list(to_delete(numbered(self.where, "step"), *self.keep, full)):
            os.remove(path)
        winner = best if crowned else champion[1] if champion else None
        for path in numbered(self.where, "best") if winner else []:
            if path != winner:
                os.remove(path)
        if self.url:
            new = {basename(full)} | ({basename(best)} if crowned else set())
            self.failed = replicate(self.where, self.failed | new, self.url)
        return Path(full)

    def last(self):
        paths = numbered(self.where, "step")
        return Path(paths[-1]) if paths else None

    def best(self):
        champion = best_of(self.where, self.mode) if self.mode else None
        return champion and Path(champion[1])

    def load_latest(self, *, model, optimizer=None, scheduler=None, map_location="cpu", **extra):
        paths = numbered(self.where, "step")
        sound = next((p for p in reversed(paths) if not is_damaged(p)), None)
        if sound is None:
            if paths:
                raise CheckpointError(f"no sound checkpoint in {self.where}: {paths}")
            return None
        restored = load_checkpoint(
            sound,
            model=model,
            optimizer=optimizer,
            scheduler=scheduler,
            map_location=map_location,
            **extra,
        )
        return {"path": Path(sound), **restored}
