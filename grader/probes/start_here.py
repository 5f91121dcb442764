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
        answer = context.call(module, "same_bits", a, b, said="same_bits(a, b)")
        said[name] = answer if isinstance(answer, bool) else type(answer).__name__
    return {"said": said}
