"""Incident 04: Progress and ResumableSampler, called as a drawn script says."""

from __future__ import annotations

import builtins
import operator
import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from workbench.moments import seed_generators

from grader.child import Context, probe
from grader.probes.training import generator_draws

FIELDS = ("epoch", "batch", "step", "next_epoch")


def fields(progress: Any) -> list[int]:
    """The counters, as whole numbers. A float or None among them is a TypeError."""
    return [operator.index(getattr(progress, name)) for name in FIELDS]


def best_bytes(progress: Any) -> Tensor:
    """``best_loss`` pickled: its type and its bits, without a claim about either."""
    return torch.tensor(list(pickle.dumps(progress.best_loss, protocol=4)), dtype=torch.uint8)


@probe
def count(context: Context):
    """Call end_batch and end_epoch as told; the four counters after each call."""
    progress = context.call(context.module("resume"), "Progress", said="Progress()")
    rows = [fields(progress)]
    for name in context.args["calls"]:
        context.stage(f"Progress.{name}()")
        getattr(progress, name)()
        rows.append(fields(progress))
    return {}, {"fields": torch.tensor(rows)}


LOSSES: dict[str, Callable[[float], Any]] = {
    "float": float,
    "np.float64": np.float64,
    "np.float32": np.float32,
    "tensor": torch.tensor,
    "tensor of shape (1, 1)": lambda value: torch.tensor([[value]]),
    "tensor with a graph": lambda value: torch.tensor(value, requires_grad=True) * 1.0,
}


def _offer(progress: Any, kind: str, value: float) -> bool:
    loss = LOSSES[kind](value)
    better = bool(progress.update_best(loss))
    if isinstance(loss, Tensor):  # a best loss that is this tensor changes with it
        with torch.no_grad():
            loss.fill_(-9.0)
    return better


@probe
def best(context: Context):
    """Offer losses of several types; each answer, and best_loss after each."""
    progress = context.call(context.module("resume"), "Progress", said="Progress()")
    answers, kept = [], {}
    for number, (kind, value) in enumerate(context.args["losses"]):
        context.stage(f"Progress.update_best(<{kind}>)")
        answers.append(_offer(progress, kind, float.fromhex(value)))
        kept[f"best/{number}"] = best_bytes(progress)
    return {}, {"answers": torch.tensor(answers), **kept}


@probe
def keep(context: Context):
    """(A) Bring a Progress to where each case says, and save its state_dict() to a file."""
    module = context.module("resume")
    for name, case in context.args["cases"].items():
        progress = context.call(module, "Progress", said="Progress()")
        for call in case["calls"]:
            context.stage(f"Progress.{call}()")
            getattr(progress, call)()
        for kind, value in case["losses"]:
            context.stage(f"Progress.update_best(<{kind}>)")
            _offer(progress, kind, float.fromhex(value))
        context.stage("Progress.state_dict()")
        torch.save(progress.state_dict(), f"{name}.pt")
    return {}


@probe
def bring_back(context: Context):
    """(B) Load each state into a fresh Progress; offer it losses, and count on with it."""
    module = context.module("resume")
    tensors: dict[str, Tensor] = {}
    for name, offers in context.args["cases"].items():
        progress = context.call(module, "Progress", said="Progress()")
        context.stage("Progress.load_state_dict(state)")
        progress.load_state_dict(torch.load(f"{name}.pt"))
        tensors[f"{name}/best"] = best_bytes(progress)
        rows = [fields(progress)]
        answers = [_offer(progress, "float", float.fromhex(value)) for value in offers]
        for call in ("end_batch", "end_epoch", "end_batch"):
            getattr(progress, call)()
            rows.append(fields(progress))
        tensors[f"{name}/fields"] = torch.tensor(rows)
        tensors[f"{name}/answers"] = torch.tensor(answers)
    return {}, tensors


@probe
def open_states(context: Context):
    """(D) Trusted: does torch.load, with its default, open each file? What does it refuse?"""
    refused = {}
    for name in context.args["files"]:
        try:
            torch.load(name)
        except Exception:
            try:
                refused[name] = torch.serialization.get_unsafe_globals_in_checkpoint(name)
            except Exception:
                refused[name] = []
    return {"refused": refused}


def _salt_hash() -> None:
    """Make hash() of a text what it is between interpreters: another one in each process.

    Forked processes share the salt that Python drew at its start; separate runs do not.
    """
    salt, plain = int.from_bytes(os.urandom(6), "big"), builtins.hash

    def has_text(value: Any) -> bool:
        if isinstance(value, tuple | frozenset):
            return any(has_text(item) for item in value)
        return isinstance(value, str | bytes)

    builtins.hash = lambda value: plain((salt, plain(value))) if has_text(value) else plain(value)


class Script:
    """Calls on samplers, by name. Each op is ``[what, name of the sampler, *arguments]``."""

    def __init__(self, context: Context) -> None:
        self.context, self.module = context, context.module("resume")
        self.samplers: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}

    def run(self, ops: list[list[Any]]) -> None:
        for what, name, *rest in ops:
            getattr(self, what)(name, *rest)

    def new(self, name: str, length: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        said = f"ResumableSampler({length}, seed={seed}, rank={rank}, world_size={world_size})"
        given = {"seed": seed, "rank": rank, "world_size": world_size}
        self.samplers[name] = self.context.call(
            self.module, "ResumableSampler", length, **given, said=said
        )

    def set_epoch(self, name: str, epoch: int) -> None:
        self.context.stage(f"sampler.set_epoch({epoch})")
        self.samplers[name].set_epoch(epoch)

    def advance(self, name: str, n: int) -> None:
        self.context.stage(f"sampler.advance({n})")
        self.samplers[name].advance(n)

    def iterate(self, name: str, label: str, most: int | None = None) -> None:
        """All of an iteration; or its first ``most`` indices, and then no more."""
        self.context.stage("list(sampler)")
        found = []
        for index in self.samplers[name]:
            if len(found) == most:
                break
            found.append(operator.index(index))
            if len(found) > 10_000:
                raise RuntimeError("the iteration does not end")
        self.tensors[label] = torch.tensor(found, dtype=torch.int64)

    def length(self, name: str, label: str) -> None:
        self.context.stage("len(sampler)")
        self.tensors[label] = torch.tensor(len(self.samplers[name]))

    def save(self, name: str, file: str) -> None:
        self.context.stage("sampler.state_dict()")
        torch.save(self.samplers[name].state_dict(), file)

    def load(self, name: str, file: str) -> None:
        self.context.stage("sampler.load_state_dict(state)")
        self.samplers[name].load_state_dict(torch.load(file))

    def try_load(self, name: str, file: str, label: str) -> None:
        try:
            self.load(name, file)
            self.facts[label] = []
        except NotImplementedError:
            raise
        except Exception as error:
            self.facts[label] = [base.__name__ for base in type(error).__mro__]


@probe
def samplers(context: Context):
    """Run a script; with ``generators`` given, seed those first and draw from them at the end."""
    _salt_hash()
    seed = context.args.get("generators")
    if seed is not None:
        seed_generators(seed)
    script = Script(context)
    script.run(context.args["ops"])
    if seed is not None:
        script.tensors |= {f"draws/{name}": draw for name, draw in generator_draws().items()}
    return script.facts, script.tensors


@probe
def untouched_generators(context: Context):
    """Trusted: what the generators draw if nothing has moved them."""
    seed_generators(context.args["generators"])
    return {}, {f"draws/{name}": draw for name, draw in generator_draws().items()}


@probe
def load_batches(context: Context):
    """Train on batches of a real DataLoader: load a state if told, save one, stop.

    "Training" records the indices. Stops after ``batches`` of them, with the loader's workers
    having fetched more.
    """
    arguments = context.args
    script = Script(context)
    script.new("sampler", arguments["length"], arguments["seed"])
    sampler = script.samplers["sampler"]
    if arguments["load"]:
        script.load("sampler", "state.pt")
    script.set_epoch("sampler", arguments["epoch"])
    context.stage(f"for batch in DataLoader(…, num_workers={arguments['workers']}): …")
    loader = torch.utils.data.DataLoader(
        range(arguments["length"]),
        batch_size=arguments["batch_size"],
        sampler=sampler,
        num_workers=arguments["workers"],
        generator=torch.Generator(),
    )
    trained: list[int] = []
    for done, batch in enumerate(loader, start=1):
        trained += batch.tolist()
        sampler.advance(len(batch))
        if done == arguments["batches"]:
            break
        if len(trained) > 10_000:
            raise RuntimeError("the iteration does not end")
    script.save("sampler", "state.pt")
    return {}, {"trained": torch.tensor(trained, dtype=torch.int64)}
