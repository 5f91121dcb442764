"""Incident 04: Progress, the run's counters and its best loss."""

from __future__ import annotations

import math
import pickle
from typing import Any

from grader.evidence import Evidence, Malformed, Raw, names
from grader.judge import Trial, Wrong, decides

FIELDS = ("epoch", "batch", "step", "next_epoch")


def numbers(evidence: Evidence, label: str, *shape: int | None) -> Any:
    """A tensor of the evidence as (nested) lists. None in ``shape``: any size."""
    raw = evidence.tensors.get(label)
    fits = raw is not None and len(raw.shape) == len(shape)
    if not fits or any(want not in (None, got) for want, got in zip(shape, raw.shape, strict=True)):
        raise Malformed(f"it has no {label!r} of shape {shape}")
    return raw.array().tolist()


def shown(calls: list[str]) -> str:
    """``3 × end_batch(), end_epoch()``: equal neighbours are counted."""
    parts: list[list[Any]] = []
    for call in calls:
        if parts and parts[-1][0] == call:
            parts[-1][1] += 1
        else:
            parts.append([call, 1])
    return ", ".join(f"{n} × {call}()" if n > 1 else f"{call}()" for call, n in parts)


class Counters:
    """What the four fields are to be after a sequence of calls."""

    def __init__(self) -> None:
        self.epoch, self.batch, self.step = -1, 0, 0

    def call(self, name: str) -> None:
        if name == "end_batch":
            self.batch += 1
            self.step += 1
        else:
            self.epoch += 1
            self.batch = 0

    def row(self) -> list[int]:
        return [self.epoch, self.batch, self.step, self.epoch + 1]


def after(calls: list[str]) -> Counters:
    counters = Counters()
    for call in calls:
        counters.call(call)
    return counters


def draw_calls(trial: Trial, epochs: int, left: int) -> list[str]:
    """``epochs`` whole epochs of 2 to 5 batches, then ``left`` batches of the next."""
    calls: list[str] = []
    for _ in range(epochs):
        calls += ["end_batch"] * int(trial.rng.integers(2, 6)) + ["end_epoch"]
    return calls + ["end_batch"] * left


@decides("off_by_one.counters")
def counters(trial: Trial) -> str:
    calls = draw_calls(trial, 3, int(trial.rng.integers(1, 4)))
    counted = trial.probe("off_by_one_parts.count", {"calls": calls})
    truth = Counters()
    for number, came in enumerate(numbers(counted, "fields", len(calls) + 1, len(FIELDS))):
        if number:
            truth.call(calls[number - 1])
        if came == truth.row():
            continue
        done = shown(calls[:number])
        raise Wrong(
            f"{'After ' + done if done else 'Before any call'}, "
            + "; ".join(
                f"{name} is to be {want}, and is {got}"
                for name, want, got in zip(FIELDS, truth.row(), came, strict=True)
                if want != got
            )
            + ".",
            _counter_cause(number, calls, truth.row(), came),
        )
    return f"{len(calls)} calls; epoch, batch, step and next_epoch agreed after each."


def _counter_cause(number: int, calls: list[str], want: list[int], came: list[int]) -> str:
    bad = {name for name, a, b in zip(FIELDS, want, came, strict=True) if a != b}
    if number == 0:
        return "before_first" if "epoch" in bad else "next_epoch"
    if calls[number - 1] == "end_epoch":
        if "step" in bad:
            return "step_counts"
        if "batch" in bad:
            return "batch_not_reset"
    if bad == {"next_epoch"}:
        return "next_epoch_mid" if want[1] else "next_epoch"
    return "counting"


def float_bytes(value: float) -> bytes:
    return pickle.dumps(value, protocol=4)


def require_best(done: str, want: float, got: Raw | None, lost: str) -> None:
    """``best_loss`` must be this float, to the bit, and a plain float."""
    if got is not None and bytes(got.data) == float_bytes(want):
        return
    value, kind = _described(bytes(got.data) if got else b"")
    if kind != "float":
        raise Wrong(f"{done}, best_loss is to be a plain float; it is a {kind}.", "best_type")
    close = value is not None and math.isclose(value, want, rel_tol=1e-3)
    raise Wrong(
        f"{done}, best_loss is to be {want!r}, and is {value!r}.", "best_inexact" if close else lost
    )


def _described(data: bytes) -> tuple[float | None, str]:
    """(value, type) of a pickled number, read without unpickling anything."""
    import pickletools
    import struct

    try:
        ops = list(pickletools.genops(data))
    except Exception:
        return None, "broken value"
    plain = [(op.name, arg) for op, arg, _ in ops if op.name not in ("PROTO", "FRAME", "STOP")]
    if len(plain) == 1 and plain[0][0] == "BINFLOAT":
        return struct.unpack(">d", struct.pack(">d", plain[0][1]))[0], "float"
    text = " ".join(str(arg) for _, arg in plain)
    if "numpy" in text:
        return None, "NumPy scalar"
    return None, "tensor" if "torch" in text else "value of another type"


def draw_losses(trial: Trial) -> list[tuple[str, float]]:
    """Losses of each kind: better, worse, equal, barely better, NaN first and later, zero."""
    kinds = ["np.float64", "np.float32", "tensor", "tensor of shape (1, 1)", "tensor with a graph"]
    kinds = [kinds[int(i)] for i in trial.rng.permutation(len(kinds))]
    # Fractions that float32 holds, but for the plain floats: 0.1 and its like it does not.
    levels = sorted(int(n) / 64 for n in trial.rng.choice(64, 5, replace=False) + 70)[::-1]
    losses: list[tuple[str, float]] = [("float", math.nan), ("float", levels[0] + 1.1)]
    for kind, level in zip(kinds, levels, strict=True):
        # A tie has the same kind; what is worse comes between them.
        losses += [(kind, level), (kind, level + 0.25), (kind, level)]
    losses.insert(int(trial.rng.integers(3, 9)), (kinds[0], math.nan))
    tenth = 0.1 * int(trial.rng.integers(6, 9)) + 0.1
    losses += [("float", tenth), ("float", tenth), ("float", tenth - 3e-5), ("float", math.inf)]
    return [*losses, ("float", 0.0), ("float", 0.1)]


@decides("off_by_one.best")
def best(trial: Trial) -> str:
    losses = draw_losses(trial)
    told = {"losses": [(kind, value.hex()) for kind, value in losses]}
    came = trial.probe("off_by_one_parts.best", told)
    answers = numbers(came, "answers", len(losses))
    lowest, ever = math.inf, False
    for number, ((kind, value), answer) in enumerate(zip(losses, answers, strict=True)):
        better = value < lowest
        if bool(answer) is not better:
            was = f"with best_loss {lowest!r}" if ever else "as the first call"
            raise Wrong(
                f"update_best({value!r}), a {kind}, {was}: expected {better}, came {not better}.",
                _best_cause(losses[: number + 1], lowest, better),
            )
        ever = True
        lowest = value if better else lowest
        done = f"After update_best({value!r}), a {kind}"
        lost = "nan" if math.isnan(value) else "best_not_kept"
        require_best(done, lowest, came.tensors.get(f"best/{number}"), lost)
    return f"{len(losses)} losses of six types: better, worse, tied, NaN; each answered rightly."


def _best_cause(losses: list[tuple[str, float]], lowest: float, better: bool) -> str:
    value = losses[-1][1]
    if math.isnan(value):
        return "nan"
    if value == lowest:
        return "ties"
    if better:
        return "threshold" if lowest - value < 1e-3 else "direction"
    return "best_not_kept"


@decides("off_by_one.survives")
def survives(trial: Trial) -> str:
    start = trial.probe("off_by_one_parts.keep", {"cases": (cases := _cases(trial))})
    where = {name: _told(case) for name, case in cases.items()}
    files = {name: data for name, data in start.files.items() if name.removesuffix(".pt") in cases}
    refused = trial.trusted(
        "off_by_one_parts.open_states", {"files": [f"{name}.pt" for name in cases]}, files=files
    ).facts["refused"]
    for name, blocked in refused.items():
        raise Wrong(
            f"{where[name.removesuffix('.pt')]}: torch.load, with its default, refuses the state. "
            f"Blocked: {names(blocked) or 'not named'}.",
            "state_refused",
        )
    # First one that is not better; without a best loss, everything finite is.
    offers = {
        name: [(1.0).hex()] * 2 if b == math.inf else [(b + 0.125).hex(), (b - 0.125).hex()]
        for name, b in _bests(cases).items()
    }
    back = trial.probe("off_by_one_parts.bring_back", {"cases": offers}, files=files)
    for name, case in cases.items():
        done = f"{where[name]}; loaded in a new process"
        _require_counters(done, case["calls"], numbers(back, f"{name}/fields", 4, len(FIELDS)))
        want = _bests(cases)[name]
        require_best(done, want, back.tensors.get(f"{name}/best"), "best_lost")
        if numbers(back, f"{name}/answers", 2) != [want == math.inf, want != math.inf]:
            raise Wrong(
                f"{done}: update_best answers wrongly to losses around {want!r}.", "best_lost"
            )
    return f"{len(cases)} states, from a fresh one to the fourth epoch: all four fields came back."


def _cases(trial: Trial) -> dict[str, dict[str, Any]]:
    """Moments at which a state is easily lost: epoch 0, mid-epoch, a best loss of 0.0."""
    drawn = float(trial.rng.uniform(0.2, 0.9))
    kinds = [str(kind) for kind in trial.rng.permutation(["tensor", "np.float64", "np.float32"])]
    wheres = {
        "fresh": (0, 0, []),
        "in-epoch-0": (0, 2, [("np.float64", drawn)]),
        "one-epoch": (1, 0, [("float", 0.1), ("float", 0.7)]),
        "later": (int(trial.rng.integers(2, 5)), int(trial.rng.integers(1, 4)), [("float", drawn)]),
        "zero": (2, 1, [(kinds[0], 1.5), (kinds[1], 0.0)]),
    }
    order = [list(wheres)[int(i)] for i in trial.rng.permutation(len(wheres))]
    return {
        name: {
            "calls": draw_calls(trial, wheres[name][0], wheres[name][1]),
            "losses": [(kind, value.hex()) for kind, value in wheres[name][2]],
        }
        for name in order
    }


def _bests(cases: dict[str, dict[str, Any]]) -> dict[str, float]:
    return {
        name: min([float.fromhex(value) for _, value in case["losses"]], default=math.inf)
        for name, case in cases.items()
    }


def _told(case: dict[str, Any]) -> str:
    done = shown(case["calls"]) or "A fresh Progress"
    losses = [f"update_best({float.fromhex(value)!r})" for _, value in case["losses"]]
    return ", ".join([done, *losses])


def _require_counters(done: str, calls: list[str], rows: list[list[int]]) -> None:
    truth = after(calls)
    for call, came in zip(("", "end_batch", "end_epoch", "end_batch"), rows, strict=True):
        if call:
            truth.call(call)
            done += f", {call}()"
        for name, want, got in zip(FIELDS, truth.row(), came, strict=True):
            if want != got:
                cause = "epoch_lost" if name == "next_epoch" else f"{name}_lost"
                raise Wrong(f"{done}: {name} is to be {want}, and is {got}.", cause)
