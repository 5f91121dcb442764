"""Incident 05: drawn models to a safetensors file and back, through learner code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grader.child import Context, probe
from grader.probes.version_breakage import outcome
from grader.probes.version_breakage_weights import report_of, state, train_a_step, tree


def _laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values, otherwise in memory."""
    if layout == "transposed":
        return tensor.t().contiguous().t()
    if layout == "channels last":
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def _model(context: Context, prefix: str, spec: dict[str, Any]) -> nn.Module:
    """A module of drawn tensors, with the dtypes, layouts and ties that ``spec`` asks for."""
    tensors = {}
    for name in spec["names"]:
        tensor = context.tensors[f"{prefix}:{name}"].clone()
        tensor = tensor.to(getattr(torch, spec["dtypes"].get(name, "float32")))
        tensors[name] = _laid_out(tensor, spec["layouts"].get(name, ""))
    one, two = spec["halves"]
    tensors[one], tensors[two] = torch.cat([tensors[one], tensors[two]]).chunk(2)
    for name, (base, how) in spec["overlapping"].items():
        whole = tensors[base]
        tensors[name] = {"rest": whole[1:], "first": whole[:2], "turned": whole.t()}[how]
    return tree(tensors, spec["buffers"], spec["ties"])


def _strides(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.stride()) for name, tensor in model.state_dict().items()}


@probe
def export(context: Context):
    """(A) Export a drawn model; what it is afterwards."""
    module = context.module("compat")
    model = _model(context, "own", context.args["spec"])
    before = _strides(model)
    path = Path("weights.safetensors") if context.args["pathlike"] else "weights.safetensors"
    error = None
    try:
        context.call(module, "export_weights", model, path, said="export_weights(model, path)")
    except NotImplementedError:
        raise
    except Exception as raised:
        error = raised
    about = {str(key): str(value) for key, value in module.environment().items()}
    facts = outcome(error) | {"environment": about, "strides": [before, _strides(model)]}
    return facts, state(model, "after/")


@probe
def exported(context: Context):
    """Trusted: what the drawn model holds, name by name."""
    return {}, state(_model(context, "own", context.args["spec"]), "")


@probe
def bring_in(context: Context):
    """(B) Import files into models of other values; the tensors after, and a step later."""
    module = context.module("compat")
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for label, (path, spec) in context.args["imports"].items():
        model = _model(context, "other", spec)
        floating = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(floating, lr=1.0)
        report, error = None, None
        try:
            report = context.call(
                module, "import_weights", model, path, said="import_weights(model, path)"
            )
        except NotImplementedError:
            raise
        except Exception as raised:
            error = raised
        facts[label] = outcome(error) | {"report": report_of(report)}
        tensors |= state(model, f"{label}/after/")
        if error is None:
            with torch.no_grad():
                ones = {name: torch.ones_like(p) for name, p in model.named_parameters()}
                train_a_step(model, optimizer, ones)
            tensors |= state(model, f"{label}/stepped/")
    return facts, tensors


@probe
def brought_in(context: Context):
    """Trusted: the models of ``bring_in`` untouched; and a step after the right import."""
    tensors: dict[str, Tensor] = {}
    for label, (_, spec) in context.args["imports"].items():
        tensors |= state(_model(context, "other", spec), f"{label}/untouched/")
    model = _model(context, "own", context.args["spec"])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with torch.no_grad():
        ones = {name: torch.ones_like(p) for name, p in model.named_parameters()}
        train_a_step(model, optimizer, ones)
    return {}, tensors | state(model, "stepped/")
