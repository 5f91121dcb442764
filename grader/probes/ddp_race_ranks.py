"""Incident 03: ranks that find each other, and that can wait for each other whatever happens."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from grader.child import Context
from grader.probes.training import (
    CLASSES,
    WIDTH,
    Run,
    generator_draws,
    model_tensors,
    optimizer_tensors,
)

SAVE = "save_checkpoint_ddp(path, model=…, optimizer=…, scheduler=…, epoch=…, loss=…)"
LOAD = "load_checkpoint_ddp(path, model=…, optimizer=…, scheduler=…)"
JOINING = "joining the process group"
PATIENCE = 5.0  # seconds that a collective waits here; torch's default is half an hour
PATIENT = 4.0  # what took longer has waited for nobody


class Group:
    """This rank's membership of a gloo process group, and a meeting point beside it.

    ``meet`` goes through the store and not through the group: it works when a package has left
    the group's collectives out of step.
    """

    def __init__(self, context: Context) -> None:
        self.rank, self.world_size = context.rank, context.world_size
        context.stage(JOINING)
        if sys.platform == "linux":
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        self.store = self._store()
        self.meet("arrived", 60)  # the group's own patience is for the package under test
        dist.init_process_group(
            "gloo",
            store=self.store,
            rank=self.rank,
            world_size=self.world_size,
            timeout=timedelta(seconds=PATIENCE),
        )
        self.meet("joined")
        if self.rank == 0:
            Path(".port").unlink()
        self.meet("ready")

    def _store(self) -> dist.TCPStore:
        port_file, wait = Path(".port"), timedelta(seconds=60)
        if self.rank == 0:
            store = dist.TCPStore(
                "127.0.0.1", 0, self.world_size, True, timeout=wait, wait_for_workers=False
            )
            draft = Path(".port-draft")
            draft.write_text(str(store.port))
            draft.replace(port_file)
            return store
        deadline = time.monotonic() + 60
        while not port_file.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        port = int(port_file.read_text())
        return dist.TCPStore("127.0.0.1", port, self.world_size, False, timeout=wait)

    def meet(self, name: str, seconds: float = 2 * PATIENCE) -> None:
        """Wait until every rank has come here, or for ``seconds``."""
        keys = [f"probe/{name}/{rank}" for rank in range(self.world_size)]
        # An absent rank has ended, and its own report says how.
        with contextlib.suppress(RuntimeError):
            self.store.set(f"probe/{name}/{self.rank}", "here")
            self.store.wait(keys, timedelta(seconds=seconds))

    def in_step(self, name: str, fact: dict[str, Any]) -> bool:
        """Meet, and say whether no rank's call has waited in vain: then the group still works."""
        with contextlib.suppress(RuntimeError):
            if fact["seconds"] > PATIENT:
                self.store.set("probe/out-of-step", "")
            self.meet(name)
            return not self.store.check(["probe/out-of-step"])
        return False

    def gather(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """On rank 0 every rank's tensors, as ``rank<r>/<name>``. For trusted probes."""
        rows: list[Any] = [None] * self.world_size
        dist.all_gather_object(rows, tensors)
        return {f"rank{r}/{n}": t for r, row in enumerate(rows) for n, t in row.items()}


class Versioned(nn.Linear):
    """A layer whose format has changed once: it reads ``_metadata``, as batch norm does."""

    _version = 2

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any
    ) -> None:
        if local_metadata.get("version") != 2 and prefix + "bias" in state_dict:
            state_dict[prefix + "bias"] = state_dict[prefix + "bias"] + 1
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class Named(nn.Module):
    """(B, 6) to (B, 4). Its names are what prefix surgery gets wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.module = nn.Linear(WIDTH, WIDTH)
        self.sub_module = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())
        self.decoder = Versioned(WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.decoder(self.sub_module(self.module(self.embed(x))))
        return self.output(self.dropout(x))


def seed_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def build(spec: dict[str, Any], seed: int) -> Run:
    """The same on every rank; generators left as the seed sets them."""
    seed_generators(seed)
    model = Named()
    if spec["optimizer"] == "adamw":
        optimizer: Any = torch.optim.AdamW(model.parameters(), lr=spec["lr"])
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=spec["lr"], momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.6)
    return Run(model, optimizer, scheduler, noise=True)


def warmed(spec: dict[str, Any], seed: int) -> Run:
    """A run that has taken one step, with a gradient of ones: it has momentum, and no DDP yet."""
    run = build(spec, seed)
    for parameter in run.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    run.optimizer.step()
    run.scheduler.step()
    run.optimizer.zero_grad()
    return run


def seed_rank(seed: int, rank: int) -> None:
    """Generators that differ by rank; NumPy with a Gaussian in its cache."""
    seed_generators(seed + 1009 * rank)
    np.random.randn(2 * rank + 1)


def wrap(run: Run) -> None:
    run.model = DistributedDataParallel(run.model)


def bare(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def state_tensors(run: Run, prefix: str) -> dict[str, Tensor]:
    return model_tensors(bare(run.model), f"{prefix}/model") | optimizer_tensors(
        run.optimizer, f"{prefix}/optimizer"
    )


def draws(prefix: str) -> dict[str, Tensor]:
    """What each generator draws next. Moves them."""
    return {f"{prefix}/draws/{name}": draw for name, draw in generator_draws().items()}


def outcome(function: Callable[[], Any]) -> dict[str, Any]:
    """Call, and say what came of it: how long it took, and what was raised, causes included."""
    started = time.monotonic()
    fact: dict[str, Any] = {"raised": None, "bases": [], "texts": [], "returned": None}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fact["returned"] = _described(function())
    except NotImplementedError:
        raise
    except Exception as error:
        fact["raised"] = type(error).__name__
        fact["bases"] = [base.__name__ for base in type(error).__mro__]
        causes = [error, *([error.__cause__] if error.__cause__ else [])]
        fact["texts"] = [_text(cause) for cause in causes]
    fact["warnings"] = [str(w.message)[:200] for w in caught]
    fact["seconds"] = time.monotonic() - started
    return fact


def _text(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:1500]
    except Exception:
        return type(error).__name__


def _described(returned: Any) -> Any:
    if not isinstance(returned, dict):
        return {"type": type(returned).__name__}
    loss = returned.get("loss")
    return {
        "type": "dict",
        "keys": sorted(map(str, returned)),
        "epoch": returned.get("epoch") if isinstance(returned.get("epoch"), int) else None,
        "loss": loss.hex() if type(loss) is float else repr(loss)[:40],
        "world_size": returned.get("world_size")
        if isinstance(returned.get("world_size"), int)
        else None,
    }


def two_nodes(context: Context) -> None:
    """LOCAL_RANK as on two nodes: 0, 1, 0, 1."""
    half = max(context.world_size // 2, 1)
    os.environ["LOCAL_RANK"] = str(context.rank % half)
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(context.rank), str(context.world_size)


def no_more_writing() -> None:
    """This process can write no byte to any file from here on."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
