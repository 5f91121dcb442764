"""Incident 03: many ranks save, others load, train on; and the run that nobody interrupted."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grader.child import Context, probe
from grader.probes.ddp_race_files import Pickled
from grader.probes.ddp_race_ranks import (
    LOAD,
    SAVE,
    Group,
    Named,
    Run,
    bare,
    build,
    draws,
    no_more_writing,
    outcome,
    seed_generators,
    seed_rank,
    state_tensors,
    two_nodes,
    warmed,
    wrap,
)
from grader.probes.lr_reset import Ema, SizedEma
from grader.probes.training import model_tensors, train


class Slow:
    """An extra that takes its time while it is written."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def state_dict(self) -> dict[str, Any]:
        return {"slow": Pickled(lambda: time.sleep(self.seconds))}


def save(
    context: Context, path: Any, run: Run, *, numpy_loss: bool = False, **extra: Any
) -> dict[str, Any]:
    """Call save_checkpoint_ddp; what came of it. np.float64 is a float, as np.mean returns one."""
    module = context.module("distributed")
    parts = {"model": run.model, "optimizer": run.optimizer, "scheduler": run.scheduler}
    loss = float.fromhex(context.args["loss"])
    told = {"epoch": context.args["epoch"], "loss": np.float64(loss) if numpy_loss else loss}
    context.stage(SAVE)
    return outcome(lambda: module.save_checkpoint_ddp(path, **{**parts, **told, **extra}))


def load(context: Context, path: Any, run: Run, **given: Any) -> dict[str, Any]:
    """Call load_checkpoint_ddp; what came of it."""
    module = context.module("distributed")
    parts = {"model": run.model, "optimizer": run.optimizer, "scheduler": run.scheduler}
    context.stage(LOAD)
    return outcome(lambda: module.load_checkpoint_ddp(path, **{**parts, **given}))


def ready(context: Context, group: Group) -> Run:
    """A run with momentum, in DDP unless told otherwise, generators seeded by rank."""
    run = warmed(context.args["spec"], context.args["seed"])
    if context.args.get("wrapped", True):
        wrap(run)
    seed_rank(context.args["seed"], group.rank)
    return run


@probe
def save_as_nodes(context: Context):
    """(A) Two nodes save, slowly; only rank 0 can write. Each rank looks as soon as it returns."""
    group = Group(context)
    two_nodes(context)
    run = ready(context, group)
    context.module("distributed")
    if group.rank:
        no_more_writing()
    group.meet("saving")
    extra = {"ema": Ema(1.5 + group.rank), "slow": Slow(0.3 if group.rank == 0 else 0.0)}
    fact = save(context, "run.pt", run, **extra)
    fact["training"] = bare(run.model).training
    tensors: dict[str, Tensor] = {}
    with contextlib.suppress(OSError):
        tensors["seen"] = torch.frombuffer(
            bytearray(Path("run.pt").read_bytes()), dtype=torch.uint8
        )
    tensors |= draws("after")
    group.meet("saved")
    return fact, tensors


@probe
def save_otherwise(context: Context):
    """(A) In a group, or without one: another kind of model, no scheduler, a missing directory."""
    group = Group(context) if context.world_size > 1 else None
    run = warmed(context.args["spec"], context.args["seed"])
    run.scheduler = None
    if context.args.get("wrapped"):
        wrap(run)
    seed_rank(context.args["seed"], context.rank)
    run.model.eval()
    extra = {"ema": SizedEma(1.5 + context.rank), "sampler": None}
    fact = save(context, "runs/today/run.pt", run, numpy_loss=True, **extra)
    fact["training"] = bare(run.model).training
    tensors = state_tensors(run, "after") | draws("after")
    if group:
        group.meet("saved")
    return fact, tensors


@probe
def inspect(context: Context):
    """(D) Trusted: what is in the file, and what each of its generators would draw."""
    try:
        saved = torch.load(context.args["path"], weights_only=True, map_location="cpu")
    except Exception as error:
        blocked = []
        with contextlib.suppress(Exception):
            path = context.args["path"]
            blocked = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        return {"opens": False, "error": type(error).__name__, "blocked": blocked}
    if not isinstance(saved, dict):
        return {"opens": True, "keys": [], "states": None}
    loss, epoch = saved.get("loss"), saved.get("epoch")
    facts: dict[str, Any] = {
        "opens": True,
        "keys": sorted(map(str, saved)),
        "absent": sorted(str(key) for key, value in saved.items() if value is None),
        "epoch": epoch if isinstance(epoch, int) else repr(epoch)[:40],
        "loss": loss.hex() if type(loss) is float else repr(loss)[:40],
    }
    tensors: dict[str, Tensor] = {}
    names = saved.get("model_state_dict")
    if isinstance(names, dict):
        facts["names"] = sorted(map(str, names))
        tensors |= {f"model/{n}": t for n, t in names.items() if isinstance(t, Tensor)}
        model = Named()
        with contextlib.suppress(Exception):
            model.load_state_dict(names)
            tensors |= model_tensors(model, "loaded")
    with contextlib.suppress(Exception):
        for position, entry in saved["optimizer_state_dict"]["state"].items():
            tensors[f"optimizer/{position}"] = entry["momentum_buffer"]
    with contextlib.suppress(Exception):
        tensors["ema"] = saved["ema_state_dict"]["mean"]
    states = saved.get("rng_state_per_rank")
    facts["states"] = len(states) if isinstance(states, list) else type(states).__name__
    rows = {"rng_state": saved.get("rng_state")}
    if isinstance(states, list):
        rows |= {f"rank{rank}": state for rank, state in enumerate(states)}
    for name, state in rows.items():
        with contextlib.suppress(Exception):
            put_generators(state)
            tensors |= draws(name)
    return facts, tensors


def put_generators(state: dict[str, Any]) -> None:
    """The grader's own set_rng_state; what is not there stays wherever it was."""
    import random

    seed_generators(int.from_bytes(os.urandom(4), "big"))
    with contextlib.suppress(Exception):
        random.setstate(state["python"])
    with contextlib.suppress(Exception):
        name, keys, *rest = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    with contextlib.suppress(Exception):
        torch.set_rng_state(state["torch"])


@probe
def expected(context: Context):
    """(C) Trusted: the weights, optimizer and generators of ``ready``, for each rank."""
    tensors: dict[str, Tensor] = {}
    for rank in range(context.args["ranks"]):
        run = warmed(context.args["spec"], context.args["seed"])
        seed_rank(context.args["seed"], rank)
        tensors |= state_tensors(run, f"rank{rank}") | draws(f"rank{rank}")
    return {}, tensors


@probe
def train_and_save(context: Context):
    """(A) Each rank trains in DDP on batches of its own; all save."""
    group = Group(context)
    run = build(context.args["spec"], context.args["seed"])
    wrap(run)
    seed_rank(context.args["seed"], group.rank)
    x, y = context.tensors["x"][group.rank], context.tensors["y"][group.rank]
    train(run, x, y, snapshots=False)
    fact = save(context, "run.pt", run)
    group.meet("saved")
    return fact


@probe
def load_and_train(context: Context):
    """(B) Fresh ranks, whose weights even differ from each other, load and train on."""
    group = Group(context)
    run = build(context.args["spec"], context.args["other_seed"])
    wrap(run)
    with torch.no_grad():
        for tensor in bare(run.model).state_dict().values():
            tensor += group.rank
    seed_generators(context.args["other_seed"])
    fact = load(context, "run.pt", run)
    fact["training"] = bare(run.model).training
    tensors = state_tensors(run, "loaded")
    if fact["raised"] is None:
        context.stage("training on after the load")
        x, y = context.tensors["x"][group.rank], context.tensors["y"][group.rank]
        train(run, x, y)
        tensors |= run.trail | draws("end")
        fact["lrs"] = run.lrs
    group.meet("done")
    return fact, tensors


@probe
def uninterrupted(context: Context):
    """(C) Trusted: the same ranks, never interrupted."""
    group = Group(context)
    run = build(context.args["spec"], context.args["seed"])
    wrap(run)
    seed_rank(context.args["seed"], group.rank)
    rank = group.rank
    train(run, context.tensors["x"][rank], context.tensors["y"][rank], snapshots=False)
    tensors = state_tensors(run, "loaded")
    run.lrs.clear()
    train(run, context.tensors["x2"][rank], context.tensors["y2"][rank])
    tensors |= run.trail | draws("end")
    everything = group.gather(tensors)
    group.meet("done")
    return {"lrs": run.lrs}, everything


class _Picky(Exception):
    """It takes two arguments and holds a lock: pickle can neither write nor rebuild it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.lock = code, threading.Lock()


ERRORS = {
    "KeyError": lambda: KeyError("ema-decay"),
    "RuntimeError": lambda: RuntimeError("PytorchStreamWriter failed writing file data/3"),
    "OSError": lambda: OSError(28, "No space left on device"),
    "_Picky": lambda: _Picky(7, "quota of project 7 exceeded"),
}


class Failing:
    """An extra that raises: when its state is asked for, or while that is being written."""

    def __init__(self, kind: str, late: bool) -> None:
        self.kind, self.late = kind, late

    def _fail(self) -> None:
        raise ERRORS[self.kind]()

    def state_dict(self) -> dict[str, Any]:
        if not self.late:
            self._fail()
        return {"fails": Pickled(self._fail)}


@probe
def fail_to_save(context: Context):
    """Saves that fail on rank 0, one after another, then one that goes well. All ranks live on."""
    group = Group(context)
    run = ready(context, group)
    facts: dict[str, Any] = {}
    for number, (kind, late) in enumerate(context.args["errors"]):
        extra = Failing(kind, late) if group.rank == 0 else Ema(1.0)
        facts[str(number)] = save(context, "run.pt", run, fails=extra)
        if not group.in_step(f"failed-{number}", facts[str(number)]):
            return facts
    facts["next"] = save(context, "run.pt", run, ema=Ema(1.5 + group.rank))
    group.meet("saved")
    return facts
