"""A recurrence over tokens in operators of the standard, one token after the other."""

from __future__ import annotations

import onnx_ir as ir

from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.operators import Recurred, Recurrence, add, cast, multiply, scaled, split_heads

_FLOAT = ir.DataType.FLOAT


def scanned(g: GraphBuilder, parts: Recurrence, past: ir.Value, dtype: ir.DataType, name: str) -> Recurred:
    """The recurrence as a Scan. The heads of a group are an axis, along which its query and key are the same."""
    each = parts.heads // parts.groups
    key, value = parts.key_dim, parts.value_dim
    queries = scaled(g, _float(g, parts.query, dtype, f"{name}.query"), parts.scale, _FLOAT, f"{name}.query.scaled")
    inputs = {
        "query": split_heads(g, queries, (0, 0, parts.groups, 1, 1, key), f"{name}.queries"),
        "key": split_heads(
            g, _float(g, parts.key, dtype, f"{name}.key"), (0, 0, parts.groups, 1, 1, key), f"{name}.keys"
        ),
        "value": split_heads(
            g, _float(g, parts.value, dtype, f"{name}.value"), (0, 0, parts.groups, each, 1, value), f"{name}.values"
        ),
        "decay": split_heads(g, parts.decay, (0, 0, parts.groups, each, 1, 1), f"{name}.decays"),
    }
    if parts.rate is not None:
        rate = _float(g, parts.rate, dtype, f"{name}.rate")
        inputs["rate"] = split_heads(g, rate, (0, 0, parts.groups, each, 1, 1), f"{name}.rates")
    state = split_heads(g, past, (0, parts.groups, each, key, value), f"{name}.past")
    after, outputs = g.node_with_outputs(
        "Scan",
        [state, *inputs.values()],
        name,
        ["state", "outputs"],
        attributes={
            "body": _step(list(inputs), name),
            "num_scan_inputs": len(inputs),
            "scan_input_axes": [1] * len(inputs),
            "scan_output_axes": [1],
        },
    )
    flat = split_heads(g, outputs, (0, 0, parts.heads * value), f"{name}.joined")
    output = flat if dtype == _FLOAT else cast(g, flat, dtype, f"{name}.narrow")
    return Recurred(output, split_heads(g, after, (0, parts.heads, key, value), f"{name}.present"))


def _float(g: GraphBuilder, x: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    return x if dtype == _FLOAT else cast(g, x, _FLOAT, f"{name}.float32")


def _step(inputs: list[str], name: str) -> ir.Graph:
    """The change of the state by one token; each of its values is [batch_size, groups, heads of a group, ...]."""
    g = GraphBuilder(f"{name}.step")
    state, *values = (g.input(f"{name}.step.{part}", _FLOAT, [None] * 5) for part in ("state", *inputs))
    token = dict(zip(inputs, values, strict=True))
    state = multiply(g, state, g.node("Exp", [token["decay"]], f"{name}.step.factor"), f"{name}.step.decayed")
    written = token["value"]
    if "rate" in token:
        known = g.node("MatMul", [token["key"], state], f"{name}.step.known")
        error = g.node("Sub", [written, known], f"{name}.step.error")
        written = multiply(g, error, token["rate"], f"{name}.step.correction")
    column = g.node("Transpose", [token["key"]], f"{name}.step.column", attributes={"perm": [0, 1, 2, 4, 3]})
    state = add(g, state, multiply(g, column, written, f"{name}.step.outer"), f"{name}.step.after")
    output = g.node("MatMul", [token["query"], state], f"{name}.step.read")
    for value in (state, output):
        g.output(value, str(value.name), _FLOAT, [None] * 5)
    return g.subgraph()
