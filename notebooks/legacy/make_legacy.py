"""Write the old checkpoints of notebook 05, with the torch and NumPy that wrote such files then.

How to run it (a few minutes, most of it the download; Linux, no GPU needed):

    python3.11 -m venv /tmp/torch113
    /tmp/torch113/bin/pip install torch==1.13.1 numpy==1.26.4
    python make_legacy.py /tmp/torch113/bin/python

The Python that runs the script is today's, with scikit-learn. The script calls the old one (and
itself) to train and write, and then describes every file in manifest.json: its SHA-256, who wrote
it, the architecture, the accuracy measured by the process that wrote it, and what today's
torch.load makes of it. Nothing here is edited or faked: each file is what its torch wrote.
A second run writes files that hold the same, on the same machine kind.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

HERE = Path(__file__).resolve().parent
EPOCHS = 20
MODULE = "digits_lab.nets"  # where the pickled model's class lived; it is not there any more
SOURCE = '''
from torch import nn


class DigitNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        return self.fc2(self.fc1(x.flatten(1)).relu())


class TiedNet(nn.Module):
    """fc2 and fc3 are one weight under two names (and two biases)."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 32)
        self.fc3 = nn.Linear(32, 32)
        self.fc3.weight = self.fc2.weight
        self.fc4 = nn.Linear(32, 10)

    def forward(self, x):
        x = self.fc1(x.flatten(1)).relu()
        return self.fc4(self.fc3(self.fc2(x).relu()).relu())
'''
MLP = {
    "class": "DigitNet",
    "layers": ["fc1 = Linear(64, 32)", "ReLU", "fc2 = Linear(32, 10)"],
    "workbench": "MLP(64, 32, 10)",
    "rename_to_workbench": [["fc1.", "1."], ["fc2.", "4."]],
}
TIED = {
    "class": "TiedNet",
    "layers": [
        "fc1 = Linear(64, 32)",
        "ReLU",
        "fc2 = Linear(32, 32)",
        "ReLU",
        "fc3 = Linear(32, 32) with fc2's weight",
        "ReLU",
        "fc4 = Linear(32, 10)",
    ],
}


def digits() -> dict[str, np.ndarray]:
    """The split and scale of workbench.digits()."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1)
    images = ((images - images.mean()) / images.std()).numpy()
    train, val = train_test_split(
        range(len(bunch.target)), test_size=360, random_state=0, stratify=bunch.target
    )
    y = bunch.target.astype(np.int64)
    return {"x": images[train], "y": y[train], "val_x": images[val], "val_y": y[val]}


def fit(model: nn.Module, data: dict[str, torch.Tensor]):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 8, 0.3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(data["x"])).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data["x"][rows]), data["y"][rows]).backward()
            optimizer.step()
        scheduler.step()
    with torch.no_grad():
        scores = model(data["val_x"])
        losses = nn.functional.cross_entropy(scores, data["val_y"], reduction="none")
        accuracy = (scores.argmax(1) == data["val_y"]).double().mean().item()
    return optimizer, scheduler, np.mean(losses.double().numpy()), accuracy


def write(out: Path, data_path: Path, which: str) -> None:
    """Train and write, with whatever torch this process has."""
    torch.set_num_threads(1)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    with np.load(data_path) as arrays:
        data = {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files}
    package = out / MODULE.partition(".")[0]
    package.mkdir()
    (package / "nets.py").write_text(SOURCE)
    sys.path.insert(0, str(out))
    from digits_lab.nets import DigitNet, TiedNet

    wrote = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
    described = {}

    def save(name: str, obj, about: str, accuracy: float, *, network=MLP, zip_file=True, **more):
        name = f"{name}-{which}.pt"
        if zip_file:
            torch.save(obj, out / name)
        else:
            torch.save(obj, out / name, _use_new_zipfile_serialization=False)
        described[name] = {
            "about": about,
            "format": more.pop("format", "weights"),
            "file_format": "zip" if zip_file else "legacy (torch < 1.6)",
            "wrote": wrote,
            "architecture": network,
            "accuracy": accuracy,
            **more,
        }

    model = DigitNet()
    optimizer, scheduler, loss, accuracy = fit(model, data)
    weights, epoch = model.state_dict(), EPOCHS - 1

    rendezvous = (out / "rendezvous").as_uri()
    torch.distributed.init_process_group("gloo", rendezvous, rank=0, world_size=1)
    wrapped = DistributedDataParallel(model).state_dict()
    torch.distributed.destroy_process_group()
    save(
        "v1",
        {"epoch": epoch, "model": wrapped},
        "format v1, written from inside DistributedDataParallel",
        accuracy,
        format="v1",
        epoch=epoch,
    )

    random.gauss(0, 1)
    np.random.standard_normal(3)  # an odd number: NumPy keeps a Gaussian for the next call
    checkpoint = {
        "version": 2,
        "epoch": epoch,
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "loss": loss,
        "rng": {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": [],
        },
        "torch": torch.__version__,
    }
    drew = {
        "random.gauss(0, 1)": random.gauss(0, 1),
        "random.random()": random.random(),
        "np.random.standard_normal()": float(np.random.standard_normal()),
        "np.random.random()": float(np.random.random()),
        "torch.rand(())": torch.rand(()).item(),
    }
    save(
        "v2",
        checkpoint,
        "format v2, everything in it: loss a np.float64, NumPy's RNG state, torch a TorchVersion",
        accuracy,
        format="v2",
        epoch=epoch,
        loss=float(loss),
        then_drew=drew,
    )
    plain = {"version": 2, "epoch": epoch, "model": weights, "torch": str(torch.__version__)}
    plain |= {"loss": float(loss), "optimizer": optimizer.state_dict(), "scheduler": None}
    save(
        "v2-plain",
        plain,
        "format v2 that today's default opens: no rng, scheduler None, plain numbers and strings",
        accuracy,
        format="v2",
        epoch=epoch,
        loss=float(loss),
    )
    numbers = {"model": weights, "best": np.float64(accuracy), "losses": np.array([loss])}
    numbers |= {"torch": torch.__version__, "np": np.random.get_state()}
    save(
        "numpy-scalars",
        numbers,
        "weights beside a np.float64, a NumPy array, torch.__version__ and NumPy's RNG state",
        accuracy,
    )
    if which == "torch1.13":
        save(
            "whole-model",
            model,
            f"the model itself, pickled whole; its class was {MODULE}.DigitNet, and has moved",
            accuracy,
            format="module",
            class_name=f"{MODULE}.DigitNet",
            class_source=SOURCE.partition("\n\n\nclass TiedNet")[0].strip() + "\n",
        )
        save(
            "legacy-format",
            weights,
            "weights in the format of torch before 1.6: no zip file, no checksums",
            accuracy,
            zip_file=False,
        )
        save(
            "legacy-format-numpy",
            {"model": weights, "best": np.float64(accuracy)},
            "the legacy format with a NumPy scalar in it",
            accuracy,
            zip_file=False,
        )
        save("ddp-prefix", wrapped, "a bare state_dict, every name with module.", accuracy)
        tied = TiedNet()
        accuracy = fit(tied, data)[-1]
        assert tied.fc3.weight is tied.fc2.weight
        about = "fc2.weight and fc3.weight are one tensor, stored once"
        save("tied", tied.state_dict(), about, accuracy, network=TIED)
    else:
        compiled = torch.compile(model).state_dict()  # wraps; compiles at the first call only
        about = "a bare state_dict from torch.compile, every name with _orig_mod."
        save("compiled", compiled, about, accuracy)
    (out / "described.json").write_text(json.dumps(described))


def today(path: Path) -> dict[str, object]:
    """What today's torch.load, at its default, makes of a file."""
    try:
        torch.load(path, map_location="cpu")
    except Exception:
        if path.name.startswith("legacy"):
            return {"torch_load": "refused"}
        blocked = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        return {"torch_load": "refused", "blocked_globals": sorted(blocked)}
    return {"torch_load": "loads"}


def main() -> None:
    if len(sys.argv) == 5 and sys.argv[1] == "write":
        return write(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    files = {}
    for which, python in (("torch1.13", sys.argv[1]), ("today", sys.executable)):
        with tempfile.TemporaryDirectory() as scratch:
            data_path, out = Path(scratch, "digits.npz"), Path(scratch, "out")
            out.mkdir()
            np.savez(data_path, **digits())
            command = [python, str(Path(__file__).resolve()), "write", out, data_path, which]
            subprocess.run(
                [str(part) for part in command],
                check=True,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )
            described = json.loads((out / "described.json").read_text())
            for name, about in described.items():
                content = (out / name).read_bytes()
                (HERE / name).write_bytes(content)
                digest = hashlib.sha256(content).hexdigest()
                files[name] = {"sha256": digest, "bytes": len(content), **about}
    for name in files:
        files[name]["today"] = today(HERE / name)
    manifest = {
        "data": "workbench.digits(): accuracy is on its 360 validation images",
        "today": {"torch": str(torch.__version__), "numpy": np.__version__},
        "files": OrderedDict(sorted(files.items())),
    }
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    for name, about in manifest["files"].items():
        print(
            f"{about['bytes']:7,} {about['accuracy']:.4f} {about['today']['torch_load']:8} {name}"
        )


if __name__ == "__main__":
    main()
