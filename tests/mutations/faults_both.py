"""Models that are wrong on both sides: the ONNX file computes what the model computes, and neither is the variant."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import torch
from mutations.editing import Artifact, edit_weights
from mutations.faults import Change, Fault, recorded

from seap_export.pipeline.convert import convert_folder

__all__ = ["FAULTS"]

Tensors = dict[str, torch.Tensor]


def _converted(change: Callable[[Tensors], Any]) -> Change:
    """Edits the model, and writes its ONNX file anew."""

    def plant(artifact: Artifact) -> None:
        edit_weights(artifact.hf, change)
        shutil.rmtree(artifact.onnx)
        artifact.onnx.mkdir()
        convert_folder(artifact.hf, artifact.onnx)

    return plant


def _layer_repeated(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith("model.layers.2.")]:
        tensors[name] = tensors[name.replace("layers.2.", "layers.1.")].clone()


def _head_negated(tensors: Tensors) -> None:
    tensors["model.layers.1.self_attn.o_proj.weight"][:, :16] *= -1


def _too_far(id: str, change: Callable[[Tensors], Any]) -> Fault:
    options = ("--dense", "{dense}", "--max-kl", "0.01")
    return Fault(id, "whole", recorded(_converted(change)), "numeric", frozenset({4}), options=options)


FAULTS: tuple[Fault, ...] = (
    _too_far("layer repeated on both sides", _layer_repeated),
    _too_far("head negated on both sides", _head_negated),
)
