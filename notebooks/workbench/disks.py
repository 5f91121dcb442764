"""A disk that fills, for real: the system refuses to let a file grow, in a process of its own.

    python -m workbench.disks run DIR --room BYTES       train, saving every epoch, until it is full
    python -m workbench.disks overwrite FILE --room N    save over FILE in place, with room for N
    python -m workbench.disks replace FILE --room N      the same, through a temporary file

A full file system needs a file system of its own, and root to make it. RLIMIT_FSIZE needs neither,
and a writer meets it in the same way: a write is refused half-way through the file.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from workbench.data import digits
from workbench.models import MLP
from workbench.moments import seed_generators
from workbench.training import train

OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 0.05}),
    "SGD, momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}),
    "Adam": ("Adam", {"lr": 1e-3}),
    "AdamW": ("AdamW", {"lr": 1e-3}),
    "AdamW, amsgrad": ("AdamW", {"lr": 1e-3, "amsgrad": True}),
    "Adafactor": ("Adafactor", {"lr": 1e-3}),
}
EPOCHS, BATCH_SIZE = 100, 200


def digits_net(name: str = "AdamW") -> dict[str, Any]:
    """Model and optimizer as a script builds them: an MLP of 1.2 MB, generators seeded."""
    seed_generators(0)
    model = MLP(64, 512, 512, 10, dropout=0.1)
    kind, options = OPTIMIZERS[name]
    return {"model": model, "optimizer": getattr(torch.optim, kind)(model.parameters(), **options)}


def checkpoint(model: nn.Module, optimizer: Optimizer, epoch: int) -> dict[str, Any]:
    """A full checkpoint, but for the generators."""
    return {
        "epoch": epoch,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }


def on_disk(directory: Path) -> int:
    """Bytes of the files in ``directory``."""
    return sum(path.stat().st_size for path in Path(directory).iterdir() if path.is_file())


def leave_room(size: int) -> bool:
    """From now on this process cannot write a file larger than ``size``; False where none can."""
    try:
        import resource
    except ImportError:  # Windows
        return False
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(size, 0), hard))
    return True


def run(directory: Path, room: int) -> None:
    """Train 100 epochs, each saved as a file of its own; one line of JSON an epoch."""
    torch.set_num_threads(1)
    parts = digits_net("AdamW")

    def save(epoch: int, loss: float) -> None:
        left = room - on_disk(directory)
        if not leave_room(left) and left < parts["model"][1].weight.nbytes:
            raise OSError(28, "No space left on device")
        torch.save(checkpoint(**parts, epoch=epoch), directory / f"epoch-{epoch}.pt")
        print(json.dumps({"epoch": epoch, "loss": loss, "bytes": on_disk(directory)}))

    train(
        **parts,
        scheduler=None,
        data=digits(),
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        on_epoch_end=save,
    )


def overwrite(path: Path, room: int) -> None:
    """Save over ``path``, in place."""
    parts = digits_net("AdamW")
    if not leave_room(room):
        path.write_bytes(path.read_bytes()[:room])  # what Windows, which has no limit, would keep
        raise OSError(28, "No space left on device")
    torch.save(checkpoint(**parts, epoch=1), path)


def replace(path: Path, room: int) -> None:
    """Save beside ``path``, then rename; whatever happens, no temporary file stays."""
    parts = digits_net("AdamW")
    temp = path.with_name(f"{path.name}.tmp")
    try:
        if not leave_room(room):
            raise OSError(28, "No space left on device")
        torch.save(checkpoint(**parts, epoch=1), temp)
        temp.replace(path)
    finally:
        temp.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "overwrite", "replace"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--room", type=int, required=True, metavar="BYTES")
    options = parser.parse_args()
    try:
        {"run": run, "overwrite": overwrite, "replace": replace}[options.what](
            options.path, options.room
        )
    except (OSError, RuntimeError) as error:
        print(f"{type(error).__name__}: {str(error).splitlines()[0]}")
        sys.exit(1)


if __name__ == "__main__":
    main()
