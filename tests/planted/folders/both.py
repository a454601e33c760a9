"""Models that are wrong on both sides: the ONNX file computes what the model computes, and neither is the variant."""

from __future__ import annotations

import shutil

import torch
from planted.editing import Artifact
from planted.fault import Change, Fault, recorded
from planted.folders.model import tensors
from support.product import convert_folder

from seap_export.common.checksums import write_checksums

Tensors = dict[str, torch.Tensor]


def _converted(change: Change) -> Change:
    """Edits the model, and writes its ONNX file anew."""

    def plant(artifact: Artifact) -> None:
        change(artifact)
        shutil.rmtree(artifact.onnx)
        artifact.onnx.mkdir()
        convert_folder(artifact.hf, artifact.onnx)
        write_checksums(artifact.onnx)

    return plant


def _layer_repeated(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith("model.layers.2.")]:
        tensors[name] = tensors[name.replace("layers.2.", "layers.1.")].clone()


def _too_far(id: str, base: str, change: Change) -> Fault:
    options = ("--dense", "{dense}", "--max-kl", "0.01")
    return Fault("weight", id, base, recorded(_converted(change)), True, frozenset({4}), options=options)


FAULTS: tuple[Fault, ...] = (_too_far("layer repeated on both sides", "whole", tensors(_layer_repeated)),)
