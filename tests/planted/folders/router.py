"""Routers that lead to the wrong variant, or to none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from planted.editing import Artifact
from planted.fault import Change, Fault, quiet
from support.editing import edit_json

_ROUTER = ("--check", "integrity", "--check", "router")


def _json(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda artifact: edit_json(artifact.router / "router.json", change)


def _swapped_variants(router: dict[str, Any]) -> None:
    router["variants"]["0.2"].update(a="b-0.2", b="a-0.2")


def _table(change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Change:
    """Edits the table of logits, which the graph holds."""

    def edit(artifact: Artifact) -> None:
        path = artifact.router / "router.onnx"
        proto = onnx.load(path)
        tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "logits_of_token")
        values = change(numpy_helper.to_array(tensor).copy())
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
        onnx.save(proto, path)

    return edit


def _rows_shifted(table: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.roll(table, 1, axis=0)


def _swap_words(values: dict[str, Any]) -> None:
    vocabulary = values["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]


FAULTS: tuple[Fault, ...] = (
    quiet("metadata", "classes lead to each other's variants", "routed", _json(_swapped_variants)),
    quiet(
        "metadata",
        "classes in another order",
        "routed",
        _json(lambda router: router["classes"].reverse()),
        codes=(4, 7),
        options=_ROUTER,
    ),
    quiet("weight", "rows of the table shifted", "routed", _table(_rows_shifted), codes=(4, 7), options=_ROUTER),
    quiet(
        "tokenizer",
        "tokenizer of the router changed",
        "routed",
        lambda artifact: edit_json(artifact.router / "tokenizer.json", _swap_words),
    ),
)
