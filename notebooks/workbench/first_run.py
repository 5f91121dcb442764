"""The smallest run whose checkpoint can be two lines long.

    python -m workbench.first_run RUN.pt                    train 6 epochs, saving after each
    python -m workbench.first_run RUN.pt --kill-at 70       the same, killed after 70 steps
    python -m workbench.first_run RUN.pt                    ... goes on from the file

Plain SGD, a constant learning rate, no dropout, an order of the data that depends on the epoch
alone: nothing here has state but the weights and the epoch. ``--momentum 0.9`` changes that.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from workbench.data import digits
from workbench.faults import kill_at
from workbench.identity import fingerprint
from workbench.models import MLP
from workbench.training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--kill-at", type=int, metavar="STEP")
    parser.add_argument("--momentum", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    model = MLP(dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=options.momentum)

    epoch = -1  # the last completed epoch; -1 before the first
    if options.path.exists():
        saved = torch.load(options.path)
        model.load_state_dict(saved["model"])
        epoch = saved["epoch"]
        print(f"resumed after epoch {epoch}")

    train(
        model,
        optimizer,
        None,
        digits(),
        epochs=options.epochs,
        start_epoch=epoch + 1,
        augmented=False,
        on_step=kill_at(options.kill_at) if options.kill_at else None,
        on_epoch_end=lambda epoch, loss: torch.save(
            {"model": model.state_dict(), "epoch": epoch}, options.path
        ),
    )
    print("weights", fingerprint(model))


if __name__ == "__main__":
    main()
