"""Incident 05: what the notebook replays with the learner's package."""

from __future__ import annotations

import io
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.serialization import safe_globals
from torch.torch_version import TorchVersion
from workbench import MLP, evaluate
from workbench.deep import Deep

from grader.child import Context, probe


class DigitNet(nn.Module):
    """Where the class of the pickled model has moved to."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)


class TiedNet(nn.Module):
    """fc2 and fc3 are one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 32)
        self.fc3 = nn.Linear(32, 32)
        self.fc3.weight = self.fc2.weight
        self.fc4 = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x.flatten(1)).relu()
        return self.fc4(self.fc3(self.fc2(x).relu()).relu())


def known_globals() -> list[Any]:
    """Names that the legacy files hold and that have been looked at: NumPy's, under the module
    names of NumPy 1 and 2, torch's version type, and a class under its old name."""
    scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    return [
        *((scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
        *(
            (reconstruct, f"{module}.multiarray._reconstruct")
            for module in ("numpy.core", "numpy._core")
        ),
        np.dtype,
        np.ndarray,
        type(np.dtype(np.float64)),
        type(np.dtype(np.uint32)),
        TorchVersion,
        (DigitNet, "digits_lab.nets.DigitNet"),
        nn.Linear,
    ]


def _accuracy(context: Context, model: nn.Module) -> float:
    """On the notebook's validation images, from a file: scikit-learn takes a second to import."""
    data = torch.load(context.args["validation"], weights_only=True)
    return evaluate(model, data["x"], data["y"])[1]


def _read(context: Context, module: Any, name: str) -> tuple[Any, dict[str, Any]]:
    """(what the file holds, how it was read): as it is, or with the known names allowed."""
    said = f'safe_load("{name}")'
    try:
        return context.call(module, "safe_load", name, said=said), {"says": "opens", "blocked": []}
    except module.UnsafeCheckpointError as error:
        fact = {"says": "refused", "blocked": sorted(error.globals)}
    with safe_globals(known_globals()):
        return context.call(module, "safe_load", name, said=f"{said}, its names allowed"), fact


def _weights(context: Context, module: Any, held: Any, kind: str) -> Any:
    if kind in ("v1", "v2"):
        return context.call(module, "migrate", held, said="migrate(checkpoint)")["model_state_dict"]
    return held.state_dict() if isinstance(held, nn.Module) else held.get("model", held)


@probe
def read_legacy(context: Context):
    """Every legacy file: read, migrated, loaded under its new names, evaluated."""
    module = context.module("compat")
    facts = {}
    for name, about in context.args["files"].items():
        shutil.copyfile(Path(context.args["folder"], name), name)
        held, fact = _read(context, module, name)
        weights = _weights(context, module, held, about["format"])
        torch.manual_seed(0)
        model = MLP(64, 32, 10) if about["rename"] else TiedNet()
        first = next(iter(weights))
        start = next((s for s in ("module.", "_orig_mod.") if first.startswith(s)), "")
        report = context.call(
            module,
            "load_weights",
            model,
            weights,
            rename=[(start + old, new) for old, new in about["rename"]],
            said=f"load_weights(model, <weights of {name}>, rename=…)",
        )
        facts[name] = fact | {
            "loaded": len(report.loaded_keys),
            "renamed": len(report.renamed),
            "accuracy": _accuracy(context, model),
        }
    return facts


@probe
def drawn_next(context: Context):
    """A v2 file's generators after migration: what they draw next. Needs notebook 01's part."""
    module = context.module("compat")
    shutil.copyfile(context.args["path"], "v2.pt")
    held, _ = _read(context, module, "v2.pt")
    new = context.call(module, "migrate", held, said="migrate(checkpoint)")
    checkpoint = context.module("checkpoint")
    context.call(checkpoint, "set_rng_state", new["rng_state"], said="set_rng_state(rng_state)")
    return {
        "random.gauss(0, 1)": random.gauss(0, 1),
        "random.random()": random.random(),
        "np.random.standard_normal()": float(np.random.standard_normal()),
        "np.random.random()": float(np.random.random()),
        "torch.rand(())": torch.rand(()).item(),
    }


@probe
def load_deep(context: Context):
    """The 163 tensors of a compiled model: without a word about names, and with one."""
    module = context.module("compat")
    weights = torch.load(context.args["path"], weights_only=True)
    facts: dict[str, Any] = {}
    torch.manual_seed(1)
    model = Deep()
    try:
        context.call(module, "load_weights", model, weights, said="load_weights(model, weights)")
        facts["refused"] = None
    except module.CheckpointError as error:
        text = str(error)
        facts["refused"] = {
            "missing": sum(name in text for name in model.state_dict()),
            "unexpected": sum(name in text for name in weights),
            "text": text,
        }
    report = context.call(
        module,
        "load_weights",
        model,
        weights,
        rename=[("_orig_mod.", "")],
        said='load_weights(model, weights, rename=[("_orig_mod.", "")])',
    )
    facts["loaded"], facts["renamed"] = len(report.loaded_keys), len(report.renamed)
    facts["accuracy"] = _accuracy(context, model)
    return facts


@probe
def round_trip(context: Context):
    """A tied model with a transposed and a bfloat16 tensor to safetensors and back."""
    module = context.module("compat")
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = TiedNet()
        model.fc4.weight = nn.Parameter(model.fc4.weight.detach().t().contiguous().t())
        model.register_buffer("average", torch.rand(5).to(torch.bfloat16))
        models.append(model)
    first, second = models
    path = "weights.safetensors"
    context.call(module, "export_weights", first, path, said="export_weights(model, path)")
    report = context.call(
        module, "import_weights", second, path, said="import_weights(model, path)"
    )
    data = Path(path).read_bytes()
    header = data[8 : 8 + int.from_bytes(data[:8], "little")].decode()
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return {
        "header": header,
        "names": len(first.state_dict()),
        "loaded": len(report.loaded_keys),
        "equal": all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs),
        "tied": second.fc3.weight is second.fc2.weight,
        "bytes": len(data),
        "torch_bytes": _torch_bytes(first),
    }


def _torch_bytes(model: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()
