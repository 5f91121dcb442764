"""Incident 04: resume(...) where there is no file, a damaged one, or several ranks."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from grader.child import Context, probe
from grader.probes.lr_reset import Ema
from grader.probes.off_by_one import RESUME, SAVE, snapshot, step_schedule, train_step
from grader.probes.off_by_one_parts import best_bytes, fields
from grader.probes.training import Run, build, generator_draws

LENGTH = 24


class Objects:
    """What a script has built when it calls resume(...). ``on_its_way``: some of it has a past."""

    def __init__(self, context: Context, seed: int, *, on_its_way: int = 0) -> None:
        module = context.module("resume")
        self.run = build(context.args["spec"], seed)
        self.run.model.train()
        self.progress = context.call(module, "Progress", said="Progress()")
        given = {"seed": seed, "rank": context.rank, "world_size": context.world_size}
        said = f"ResumableSampler({LENGTH}, …)"
        self.sampler = context.call(module, "ResumableSampler", LENGTH, **given, said=said)
        self.extra: dict[str, Any] = {}
        self.sampler.set_epoch(0)
        if on_its_way:
            self.progress.end_batch()
            self.progress.end_epoch()
            self.sampler.set_epoch(1)
            self.progress.update_best(0.1)
        for _ in range(on_its_way):
            self.sampler.advance(4)
            self.progress.end_batch()

    def parts(self) -> dict[str, Any]:
        return {
            "model": self.run.model,
            "optimizer": self.run.optimizer,
            "scheduler": self.run.scheduler,
            "progress": self.progress,
            "sampler": self.sampler,
            **self.extra,
        }

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Everything that may or may not have been touched. Moves the generators: call it last."""
        state = snapshot(self.run, prefix) | {
            f"{prefix}/fields": torch.tensor(fields(self.progress)),
            f"{prefix}/best": best_bytes(self.progress),
            f"{prefix}/samples": torch.tensor([int(i) for i in self.sampler], dtype=torch.int64),
        }
        for name, part in self.extra.items():
            if isinstance(part, Ema):
                state[f"{prefix}/extra/{name}"] = part.average.clone()
        return state | {f"{prefix}/draws/{name}": d for name, d in generator_draws().items()}


def _raised(error: Exception) -> dict[str, Any]:
    # Not its text: torch's errors advise to load unsafely.
    return {"raised": type(error).__name__, "bases": [b.__name__ for b in type(error).__mro__]}


@probe
def no_file(context: Context):
    """(B) resume(...) where there is nothing; or, to compare with, the same without the call."""
    objects = Objects(context, context.args["seed"], on_its_way=context.args["on_its_way"])
    if context.args["on_its_way"]:  # whatever a caller may have done before
        objects.sampler.set_epoch(3)
        objects.sampler.advance(4)
        objects.run.model.eval()
    facts: dict[str, Any] = {}
    if context.args["call"]:
        path: Any = context.args["path"]
        path = Path(path) if context.args["pathlike"] else path
        try:
            returned = context.call(
                context.module("resume"), "resume", path, **objects.parts(), said=RESUME
            )
            facts = {"returned": repr(returned)[:80]}
        except FileNotFoundError as error:
            facts = _raised(error)
    modes = torch.tensor([module.training for module in objects.run.model.modules()])
    return facts, {"state/train or eval mode": modes} | objects.tensors("state")


def _train(context: Context, run: Run) -> None:
    """One step for each batch given: ``x`` is (steps, B, 6), ``y`` (steps, B)."""
    if "x" not in context.tensors:
        return
    for x, y in zip(context.tensors["x"], context.tensors["y"], strict=True):
        train_step(run, x, y)
        step_schedule(run, None)


@probe
def save(context: Context):
    """(A) Train, and save in the middle of epoch 1, with an extra."""
    objects = Objects(context, context.args["seed"], on_its_way=2)
    _train(context, objects.run)
    objects.extra = {"ema": Ema(1.5)}
    context.call(
        context.module("checkpoint"),
        "save_checkpoint",
        "run.pt",
        **objects.parts(),
        epoch=objects.progress.epoch,
        loss=0.7,  # neither the best loss nor the last
        said=SAVE,
    )
    return {}, objects.tensors("state")


class _Opens:
    """Unpickled, it makes a file: harmless, and seen from outside."""

    def __reduce__(self) -> Any:
        return (open, ("it-ran", "w"))


@probe
def make_damaged(context: Context):
    """Trusted: copies of the learner's own file, each damaged or incomplete in its way."""
    whole = Path("run.pt").read_bytes()
    saved = torch.load("run.pt", weights_only=True, map_location="cpu")
    for name, how in context.args["variants"].items():
        target = Path(f"{name}.pt")
        if how == "truncated":
            target.write_bytes(whole[: int(len(whole) * context.args["share"])])
        elif how == "empty":
            target.write_bytes(b"")
        elif how == "overwritten":
            target.write_bytes(b"<html>502 Bad Gateway</html>\n" * 40)
        elif how == "unsafe":
            torch.save(saved | {"more": _Opens()}, target)
        elif how == "pickle":
            target.write_bytes(pickle.dumps(_Opens()))
        elif how == "no checkpoint":
            torch.save([1, 2, 3], target)
        else:
            torch.save({key: v for key, v in saved.items() if key != how}, target)
    Path("run.pt").unlink()
    return {}


@probe
def try_damaged(context: Context):
    """(B) resume(...) from each file with fresh objects; what came, and how they are then."""
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    module = context.module("resume")
    for name in context.args["files"]:
        objects = Objects(context, context.args["other_seed"])
        objects.extra = {"ema": Ema(0.0)}
        try:
            returned = context.call(
                module, "resume", f"{name}.pt", **objects.parts(), said=RESUME[:-1] + ", ema=…)"
            )
            facts[name] = {"raised": None, "returned": repr(returned)[:80]}
        except NotImplementedError:
            raise
        except Exception as error:
            facts[name] = _raised(error)
        tensors |= objects.tensors(name)
    return facts, tensors


@probe
def untouched(context: Context):
    """(B) The objects of ``try_damaged``, if nothing touches them."""
    objects = Objects(context, context.args["other_seed"])
    objects.extra = {"ema": Ema(0.0)}
    return {}, objects.tensors("state")


@probe
def retag(context: Context):
    """Trusted: the learner's own file as a machine with a GPU would have written it."""
    saved = torch.load("run.pt", weights_only=True, map_location="cpu")
    tag = torch.serialization.location_tag
    torch.serialization.location_tag = lambda storage: "cuda:0"
    try:
        buffer = io.BytesIO()
        torch.save(saved, buffer)
    finally:
        torch.serialization.location_tag = tag
    Path("run.pt").write_bytes(buffer.getvalue())
    return {}


@probe
def resume(context: Context):
    """(B) resume(...) with extras, one of which draws while it loads; then how all of it is."""
    arguments = context.args
    objects = Objects(context, arguments["other_seed"])
    objects.extra = {"ema": Ema(0.0, greedy=True), "scaler": None}
    asked: list[str] = []

    def here(storage: Any, location: str) -> Any:
        asked.append(location)
        return storage

    given = {"map_location": here} if arguments["redirect"] else {}
    returned = context.call(
        context.module("resume"),
        "resume",
        Path("run.pt"),
        **objects.parts(),
        **given,
        said=RESUME[:-1] + (", map_location=<a function>)" if given else ", ema=…)"),
    )
    objects.sampler.set_epoch(1)
    facts = {"returned": repr(returned)[:80], "asked": len(asked)}
    return facts, objects.tensors("state")


@probe
def truth(context: Context):
    """(C) Trusted: model, optimizer and generators, built, trained if there are batches."""
    run = build(context.args["spec"], context.args["seed"])
    run.model.train()
    _train(context, run)
    torch.rand(context.args.get("draws", 0))
    draws = {f"state/draws/{name}": draw for name, draw in generator_draws().items()}
    return {}, snapshot(run, "state") | draws


class _Group:
    """A process group of the probe's ranks, which meet in a file."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def __enter__(self) -> None:
        if Path("/sys/class/net/lo").exists():
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        meeting = Path("rendezvous").resolve()
        dist.init_process_group(
            "gloo",
            init_method=meeting.as_uri(),
            rank=self.context.rank,
            world_size=self.context.world_size,
        )

    def __exit__(self, *_: object) -> None:
        dist.destroy_process_group()


@probe
def save_ranks(context: Context):
    """(A) On each rank: train, draw differently, save together in the middle of epoch 1."""
    with _Group(context):
        objects = Objects(context, context.args["seed"], on_its_way=2)
        _train(context, objects.run)
        torch.rand(context.rank + 1)  # from here on each rank's generator stands elsewhere
        context.call(
            context.module("distributed"),
            "save_checkpoint_ddp",
            "run.pt",
            **objects.parts(),
            epoch=objects.progress.epoch,
            loss=0.7,
            said="save_checkpoint_ddp(path, …, progress=…, sampler=…)",
        )
        return {}, objects.tensors("state")


@probe
def resume_ranks(context: Context):
    """(B) On each rank: resume(...), with each rank's own path if told."""
    with _Group(context):
        objects = Objects(context, context.args["other_seed"])
        path = context.args["paths"][context.rank]
        said = f'resume("{path}", …) on rank {context.rank}'
        try:
            returned = context.call(
                context.module("resume"), "resume", path, **objects.parts(), said=said
            )
            facts = {"returned": repr(returned)[:80]}
        except NotImplementedError:
            raise
        except Exception as error:
            facts = _raised(error)
        objects.sampler.set_epoch(1)
        return facts, objects.tensors("state")
