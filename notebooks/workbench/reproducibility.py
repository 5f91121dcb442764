"""A test for your own repository: is a training run the same run twice? Copy this file.

    # tests/test_reproducible.py
    from reproducibility import assert_reproducible

    def test_training_is_reproducible():
        assert_reproducible("my_project.train:short_run")

``short_run`` takes no arguments, trains for some dozens of steps as your script does, past at
least one validation and one epoch's end, and returns (losses, model): a float per step, and
anything with a ``state_dict()``. It needs torch, and nothing else of this course.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any


def assert_reproducible(target: str, *, timeout: float = 600) -> None:
    """Call ``target`` ("package.module:function") in two new processes; compare exactly.

    AssertionError names the first step whose losses differ in any bit, or else the tensors that
    do. The processes have different string hashes, as any two processes have.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("first", "second")]
        processes = [_start(target, file, seed) for seed, file in enumerate(files, start=1)]
        try:
            for process in processes:
                said, _ = process.communicate(timeout=timeout)
                assert process.returncode == 0, f"{target} failed:\n{said[-2000:]}"
        finally:
            for process in processes:
                process.kill()
                process.wait()
        first, second = (json.loads(file.read_text(encoding="utf-8")) for file in files)

    for step, (a, b) in enumerate(zip_longest(first["losses"], second["losses"])):
        assert a == b, f"{target}: two runs part at step {step}: loss {_shown(a)} and {_shown(b)}"
    one, other = first["tensors"], second["tensors"]
    changed = [name for name in one | other if one.get(name) != other.get(name)]
    assert not changed, f"{target}: the losses agree and these tensors do not: {changed}"


def _start(target: str, record: Path, hash_seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, target, str(record)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
            "PYTHONHASHSEED": str(hash_seed),
        },
    )


def _shown(loss: str | None) -> str:
    return "none" if loss is None else repr(float.fromhex(loss))


def _record(losses: Iterable[float], model: Any) -> dict[str, Any]:
    """The losses as hexadecimal floats, which lose no bit, and a hash of every tensor."""
    import torch

    tensors = {}
    for name, tensor in model.state_dict().items():
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        tensors[name] = hashlib.sha256(data.numpy().tobytes()).hexdigest()
    return {"losses": [float(loss).hex() for loss in losses], "tensors": tensors}


if __name__ == "__main__":
    module, function = sys.argv[1].split(":")
    losses, model = getattr(importlib.import_module(module), function)()
    Path(sys.argv[2]).write_text(json.dumps(_record(losses, model)), encoding="utf-8")
