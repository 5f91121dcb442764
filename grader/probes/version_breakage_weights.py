"""Incident 05: drawn weights into a drawn model, through learner code."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from grader.child import Context, probe
from grader.probes.version_breakage import outcome


def tree(
    tensors: dict[str, Tensor], buffers: list[str], ties: list[list[str]], norm: str = ""
) -> nn.Module:
    """A module whose state_dict has exactly these names; each list in ``ties`` is one parameter.

    The part called ``norm`` is a batch norm: loading, it has ideas of its own.
    """
    root, first = nn.Module(), {name: group[0] for group in ties for name in group}
    parameters: dict[str, nn.Parameter] = {}
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.BatchNorm1d(3) if part == norm else nn.Module())
            module = module._modules[part]
        if name in buffers:
            module.register_buffer(last, tensor)
            continue
        owner = first.get(name, name)
        if owner not in parameters:
            parameters[owner] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        module.register_parameter(last, parameters[owner])
    return root


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those below ``prefix``, cloned, without it; in the order in which they were drawn."""
    return {k.removeprefix(prefix): v.clone() for k, v in tensors.items() if k.startswith(prefix)}


def state(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": t.detach().clone() for name, t in model.state_dict().items()}


def report_of(report: Any) -> dict[str, Any]:
    """A LoadReport's fields, as far as they are what they should be."""
    found: dict[str, Any] = {}
    for key in ("loaded_keys", "missing_keys", "unexpected_keys"):
        value = getattr(report, key, None)
        listed = isinstance(value, list) and all(isinstance(name, str) for name in value)
        found[key] = list(value) if listed else f"a {type(value).__name__}"
    renamed = getattr(report, "renamed", None)
    found["renamed"] = dict(renamed) if isinstance(renamed, dict) else type(renamed).__name__
    return found


def train_a_step(model: nn.Module, optimizer: torch.optim.Optimizer, gradients: dict) -> None:
    """One step of an optimizer that was built before the load; and the buffers move."""
    for name, gradient in gradients.items():
        model.get_parameter(name).grad = gradient
    optimizer.step()
    for buffer in model.buffers():
        buffer.add_(1)


@probe
def load(context: Context):
    """(B) Each case: a model, a state_dict, options. The tensors before, after, a step later."""
    module = context.module("compat")
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for label, case in context.args["cases"].items():
        own = under(context.tensors, f"{label}:own:")
        own = {name: own[name] for name in case["own"]}
        model = tree(own, case["buffers"], case["ties"], case["norm"])
        given = under(context.tensors, f"{label}:file:")
        given = OrderedDict((name, given[name]) for name in case["file"])
        floating = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(floating or [torch.zeros(1)], lr=1.0)
        options = dict(case["options"])
        if "rename" in options:
            options["rename"] = [tuple(pair) for pair in options["rename"]]
        said = "".join(f", {key}={value!r}" for key, value in options.items())
        report, error = None, None
        try:
            report = context.call(
                module,
                "load_weights",
                model,
                given,
                said=f"load_weights(model, state_dict{said})",
                **options,
            )
        except NotImplementedError:
            raise
        except Exception as raised:
            error = raised
        facts[label] = outcome(error) | {"report": report_of(report), "file": list(given)}
        tensors |= state(model, f"{label}/after/")
        if case.get("step") and error is None:
            with torch.no_grad():
                train_a_step(model, optimizer, under(context.tensors, f"{label}:grad:"))
            tensors |= state(model, f"{label}/stepped/")
        tensors |= {f"{label}/file/{name}": t.detach().clone() for name, t in given.items()}
    return facts, tensors
