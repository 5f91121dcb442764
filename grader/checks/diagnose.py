"""What evidence of a resumed run shows: (a sentence, the likeliest cause), or None.

Each function looks at one component. Facts that a probe claims serve the message only; that the
runs differ has been decided before, from their tensors.
"""

from __future__ import annotations

from typing import Any

from grader.evidence import Tensors, differing, names


def weights(truth: Tensors, got: Tensors) -> tuple[str, str] | None:
    bad = differing(truth.under("loaded/model"), got.under("loaded/model"))
    if not bad:
        return None

    def is_buffer(name: str) -> bool:
        return "running_" in name or "num_batches" in name

    if all(is_buffer(name) for name in bad):
        return f"The parameters came back; these buffers did not: {names(bad)}.", "buffers"
    if {name for name in truth.under("loaded/model") if not is_buffer(name)} <= set(bad):
        return "None of the model's parameters came back.", "model_missing"
    return f"These came back as other tensors: {names(bad)}.", "model_partly"


def links(facts: dict[str, Any], *, training: bool = True) -> tuple[str, str] | None:
    """``training``: whether the model was in train mode before the load."""
    if facts.get("linked") is False:
        return "After the load the optimizer holds tensors that are not the model's.", "unlinked"
    grads = facts.get("requires_grad")
    if isinstance(grads, list) and (not any(grads[2:]) or all(grads)):
        shown = "no parameter is trained" if not any(grads) else "a frozen layer is trained"
        return f"After the load {shown}: requires_grad was changed.", "requires_grad"
    if training and facts.get("training") is False:
        return "The model was in train mode before the load, and in eval mode after.", "mode"
    return None


def rates(truth: dict[str, Any], facts: dict[str, Any]) -> tuple[str, str] | None:
    expected, got = truth["lrs"], facts.get("lrs")
    if not got or expected[0] == got[0]:
        return None
    shown = ", ".join(f"{lr:.4g}" for lr in expected[0])
    came = ", ".join(f"{lr:.4g}" for lr in got[0])
    return (
        f"Uninterrupted, the next step uses the learning rates {shown}; resumed, {came}.",
        "learning_rate",
    )


def later_rates(
    truth: dict[str, Any], facts: dict[str, Any], until: int | None = None
) -> tuple[str, str] | None:
    """``until``: no later than this step after the load."""
    got = (facts.get("lrs") or [])[:until]
    for number, (want, came) in enumerate(zip(truth["lrs"], got, strict=False), start=1):
        if want != came:
            return (
                f"Step {number} after the load used the learning rate {came[0]:.4g}; "
                f"uninterrupted, it is {want[0]:.4g}.",
                "schedule",
            )
    return None


def optimizer(truth: Tensors, got: Tensors) -> tuple[str, str] | None:
    want, came = truth.under("loaded/optimizer"), got.under("loaded/optimizer")
    bad = differing(want, came)
    if not bad:
        return None
    kinds = sorted({name.split("/")[1] for name in want})
    key = next((k for k in ("momentum_buffer", "exp_avg") if k in kinds), kinds[0])
    name = "momentum" if key == "momentum_buffer" else f"state {key}"

    def norm(tensors: Tensors) -> float:
        return Tensors({n: t for n, t in tensors.items() if n.endswith("/" + key)}).norm()

    said = (
        f"Before the save the optimizer's {name} had norm {norm(want):.3g}; "
        f"after the load, {norm(came):.3g}."
    )
    if norm(came) == 0:
        return said, "optimizer_empty"
    return said + f" Other than before: {names(sorted(bad))}.", "optimizer_partly"


def group_keys(truth: dict[str, Any], facts: dict[str, Any]) -> tuple[str, str] | None:
    scales = facts.get("grad_scale")
    if not scales or scales == truth["grad_scale"]:
        return None
    return (
        "Each of the optimizer's param_groups had a key of the caller's own, \"grad_scale\": "
        f"{truth['grad_scale'][0]}; after the load it is {scales[0]}.",
        "optimizer_partly",
    )


def extras(truth: Tensors, got: Tensors) -> tuple[str, str] | None:
    bad = differing(truth.under("loaded/extra"), got.under("loaded/extra"))
    if bad:
        return f"The extra state came back as another one: {names(bad)}.", "extra"
    return None


def generators(truth: Tensors, got: Tensors) -> tuple[str, str] | None:
    want, came = truth.under("end/draws"), got.under("end/draws")
    bad = differing(want, came)
    if not bad:
        return None
    spoken = {"python": "Python's random", "numpy": "NumPy's", "torch": "torch's"}
    listed = ", ".join(spoken.get(name, name) for name in bad)
    return (
        f"Everything else came back, but at the end {listed} "
        + ("generators stand elsewhere." if len(bad) > 1 else "generator stands elsewhere."),
        "rng_" + ("all" if len(bad) >= 3 else bad[0].split(":")[0]),
    )
