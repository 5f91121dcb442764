"""Notebook 00: compare bits, not numbers."""

from __future__ import annotations

import numpy as np

from grader.judge import Trial, Wrong, decides


@decides("start_here.same_bits")
def same_bits(trial: Trial) -> str:
    base = trial.rng.standard_normal((3, 4)).astype(np.float32)
    row, column = int(trial.rng.integers(3)), int(trial.rng.integers(4))

    def with_value(value: float) -> np.ndarray:
        changed = base.copy()
        changed[row, column] = value
        return changed

    nearly = base.copy()
    nearly[row, column] = np.nextafter(base[row, column], np.float32(np.inf), dtype=np.float32)
    cases = {
        "equal": (base, base.copy(), True, "the same numbers", ""),
        "nan": (with_value(np.nan), with_value(np.nan), True, "the same, with a NaN", "nan"),
        "zero": (with_value(0.0), with_value(-0.0), False, "0.0 against -0.0", "zero"),
        "last bit": (base, nearly, False, "one number one bit apart", "tolerance"),
        "dtype": (base, base.astype(np.float64), False, "float32 against float64", "dtype"),
        "integers": (base, base.view(np.int32), False, "the same bytes as int32", "dtype"),
        "shape": (base, base.reshape(4, 3), False, "(3, 4) against (4, 3)", "shape"),
        "broadcast": (base[:1], base[0], False, "(1, 4) against (4,)", "shape"),
        "strided": (base, base.copy(), True, "a transposed view against its copy", "strided"),
    }
    # Any dtype: of other sizes, odd in number, without a shape, strided, part of a graph.
    three = base.ravel()[:3]
    for name, array in {
        "bfloat16": three,
        "float16": three.astype(np.float16),
        "bool": three > 0,
        "float64, of shape ()": np.array(three[0], np.float64),
        "float64, transposed,": base.astype(np.float64),
        "with requires_grad": three,
    }.items():
        cases[name] = (array, array.copy(), True, f"a tensor {name} against its copy", "any_dtype")
    tensors = {}
    for name, (a, b, *_) in cases.items():
        tensors |= {f"{name}/a": a, f"{name}/b": b}
    order = [list(cases)[int(i)] for i in trial.rng.permutation(len(cases))]
    args = {
        "pairs": order,
        "transposed": ["strided", "float64, transposed,"],
        "bfloat16": ["bfloat16"],
        "requires_grad": ["with requires_grad"],
    }
    said = trial.probe("start_here.compare", args, tensors=tensors).facts["said"]
    for name, (_, _, expected, told, cause) in cases.items():
        if str(said[name]).startswith("raised "):
            raise Wrong(f"same_bits on {told}: it {said[name]}.", cause)
        if not isinstance(said[name], bool):
            raise Wrong(f"same_bits returned a {said[name]}.", "not_bool")
        if said[name] != expected:
            raise Wrong(f"same_bits on {told}: expected {expected}, got {said[name]}.", cause)
    return f"{len(cases)} pairs, each told apart rightly."
