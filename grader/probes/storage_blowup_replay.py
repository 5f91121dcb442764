"""Incident 06: what the notebook draws with the learner's package."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from grader.child import Context, probe
from grader.probes.storage_blowup_faults import fault
from grader.probes.storage_blowup_sizes import MEASURE, step


@probe
def sizes(context: Context):
    """What checkpoint_nbytes says before the first step, and the file that a save then writes."""
    from workbench.disks import OPTIMIZERS, digits_net

    module, rows = context.module("storage"), {}
    for name in OPTIMIZERS:
        run = digits_net(name)
        said = context.call(
            module, "checkpoint_nbytes", run["model"], run["optimizer"], said=MEASURE
        )
        step(run["optimizer"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint.pt"
            context.call(
                context.module("checkpoint"),
                "save_checkpoint",
                path,
                **run,
                scheduler=None,
                epoch=0,
                loss=0.0,
            )
            rows[name] = [int(said), path.stat().st_size]
    return rows


@probe
def run(context: Context):
    """The incident's run with a CheckpointManager: bytes on the disk after each save.

    The save of epoch ``full_at`` meets a full disk; then the run goes on.
    """
    from workbench.disks import digits_net

    args = context.args
    parts = digits_net(args["optimizer"])
    manager = context.call(
        context.module("storage"),
        "CheckpointManager",
        "run",
        keep_last=args["keep_last"],
        keep_every=args["keep_every"],
    )
    on_disk: list[int] = []
    failed: dict[str, Any] = {}
    for epoch, loss in enumerate(args["losses"]):
        context.stage(f"save(…, epoch={epoch}, metric={loss:.4f})")
        step(parts["optimizer"])
        full = epoch == args["full_at"]
        try:
            with fault("full" if full else None):
                manager.save(**parts, scheduler=None, epoch=epoch, loss=loss, metric=loss)
        except (OSError, RuntimeError) as error:
            if not full:
                raise
            last = manager.last()
            torch.load(last)
            failed = {"raised": type(error).__name__, "last": last.name}
        on_disk.append(sum(path.stat().st_size for path in Path("run").iterdir()))
    best = manager.best()
    return {
        "on_disk": on_disk,
        "failed": failed,
        "files": sorted(path.name for path in Path("run").iterdir()),
        "best": best.name if best else "none",
    }
