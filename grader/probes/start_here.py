"""Notebook 00: one small function, and a sign of life."""

from __future__ import annotations

from grader.child import Context, probe


@probe
def hello(context: Context):
    """Trusted: the server forks and answers."""
    return {}


@probe
def compare(context: Context):
    """Call ``same_bits`` on each drawn pair; return what it said, in words."""
    module = context.module("bits")
    said = {}
    for name in context.args["pairs"]:
        a, b = context.tensors[f"{name}/a"], context.tensors[f"{name}/b"]
        if name in context.args["transposed"]:
            a, b = a.t(), b.t().contiguous()
        if name in context.args["bfloat16"]:
            a, b = a.bfloat16(), b.bfloat16()
        for tensor in (a, b):
            tensor.requires_grad_(name in context.args["requires_grad"])
        try:
            answer = context.call(module, "same_bits", a, b, said="same_bits(a, b)")
        except (RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, NotImplementedError):
                raise
            said[name] = f"raised {type(error).__name__}: {str(error).splitlines()[0][:200]}"
            continue
        said[name] = answer if isinstance(answer, bool) else type(answer).__name__
    return {"said": said}
