"""The format of mlx-lm: safetensors in the plain form, and a model file that runs layers of different shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import torch

from converters.accepted import accepted_model
from converters.format import Format
from converters.mlx.layout import GROUPS, PRECISIONS, WAYS, Layout
from converters.mlx.quantize import GRID
from converters.mlx.stored import MlxWeights
from converters.mlx.writer import model_dtype, write_mlx
from seap_export.common.json_file import read_json
from seap_export.errors import ArtifactError, InputError
from seap_export.model.families import (
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    LayerInput,
    Mlp,
    ModelSpec,
    SharedExpert,
)
from seap_export.model.families.sublayers import Gates
from seap_export.model.sources.tensor_writer import SafetensorsWriter
from seap_export.pruning.plan.recipes import Target
from seap_export.pruning.rounding.grid import BlockQuantization, Way
from seap_export.pruning.rounding.shares import groups_of

#: Activations of the gates in `modeling_mlx.py`.
_ACTIVATIONS = ("silu", "gelu_tanh")
#: Score functions of the routers in `modeling_mlx.py`.
_SCORES = ("softmax", "sigmoid")
#: The kinds of sublayers of `modeling_mlx.py`.
_KINDS = (Attention, Convolution, DeltaNet, Experts, LayerInput, Mlp, SharedExpert)
#: How many matrices a remark names.
_NAMED = 3


@dataclass(frozen=True)
class MlxFormat(Format):
    """Writes and reads folders of mlx-lm, without MLX itself.

    Attributes:
        precision: One of `precisions`. "8bit" and "4bit" are MLX's affine quantisation in groups of 64, or of 32 where
            64 does not divide a width; other matrices are left as they are. Matrices may have bits of their own.
    """

    name: ClassVar[str] = "mlx"
    runtimes: ClassVar[tuple[str, ...]] = ("mlx",)
    precisions: ClassVar[tuple[str, ...]] = tuple(PRECISIONS)
    ways: ClassVar[tuple[Way, ...]] = WAYS
    version: ClassVar[int] = 4
    precision: str = "fp16"

    @classmethod
    def read(cls, folder: Path) -> MlxFormat:
        if (mixed := cls.mixed_of(folder)) is not None:
            return mixed
        dtype, quantization = read_dtype(folder), read_json(folder / "config.json").get("quantization")
        bits = quantization.get("bits") if isinstance(quantization, dict) else None
        for name, precision in PRECISIONS.items():
            if precision.bits == bits and precision.dtype in (dtype, None):
                return cls(name)
        raise ArtifactError(f"{folder / 'config.json'}: {bits} bits are not known; export again")

    def refusal(self, spec: ModelSpec, model_folder: Path) -> str | None:
        if (part := _unknown_layer(spec)) is not None:
            return f"mlx cannot run this model: its model file has no layer with {part}; use another format"
        if spec.norm.is_centred:
            return "mlx cannot run this model: its model file has no LayerNorm; use another format"
        for mlp in spec.all(Mlp):
            if not mlp.is_gated or mlp.activation not in _ACTIVATIONS:
                lacking = f"no {mlp.activation} gate" if mlp.is_gated else "no MLP without a gate"
                return f"mlx cannot run this model: its model file has {lacking}; use another format"
        for experts in spec.all(Experts):
            if (part := _unknown_part(experts)) is not None:
                return f"mlx cannot run this model: its model file has no experts with {part}; use another format"
        if not self._quantises:
            return None
        layout = Layout(spec, self.precision)
        if any(layout.group(name) for name in spec.tensors()):
            return None
        return (
            f"mlx cannot quantise any matrix of this model: no width is a multiple of {GROUPS[-1]}; "
            f"use align = {GROUPS[-1]} in a recipe, or fp16"
        )

    def remark(self, spec: ModelSpec) -> str | None:
        """Names the matrices that are not quantised because no group divides their width."""
        left = Layout(spec, self.precision).unquantised
        if not left:
            return None
        names = ", ".join(left[:_NAMED]) + (f" and {len(left) - _NAMED} more" if len(left) > _NAMED else "")
        return (
            f"mlx leaves {len(left)} matrices unquantised whose width is no multiple of {GROUPS[-1]}: {names}; "
            f"align = {GROUPS[-1]} in a recipe lets it quantise all"
        )

    @property
    def target(self) -> Target | None:
        """Whole groups of the usual size."""
        return Target(block_size=GROUPS[0]) if self._quantises else None

    def size(self, spec: ModelSpec) -> int:
        layout = Layout(spec, self.precision)
        size = SafetensorsWriter(Path(), layout.shapes, layout.dtypes, framework="mlx").size
        if (average := self.average) is None or (grid := self.grid(spec)) is None:
            return size
        shapes, more = spec.tensors(), 0.0
        for name in (name for group in groups_of(spec, grid) for name in group.names):
            if (group := layout.group(name)) is not None:
                more += prod(shapes[name]) * (average - layout.bits_of(name) - 32 / group) / 8
        return size + round(more)

    def grid(self, spec: ModelSpec) -> BlockQuantization | None:
        """Symmetric groups, which are some of those that MLX can store: of 64 with 4 bits."""
        if self.average is not None:
            return replace(GRID, block_size=GROUPS[-1], average=self.average, mix=self.name, ways=WAYS)
        return GRID if PRECISIONS[self.precision].bits == GRID.bits else None

    def settings(self) -> dict[str, Any]:
        return {"format": self.name, **super().settings()}

    def write(self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
        write_mlx(model_folder, out_folder, *self._accepted(model_folder), on_layer)

    def write_like(self, written: Path, model_folder: Path, out_folder: Path) -> None:
        """Writes it without the trial in float16, which the written folder has passed."""
        write_mlx(model_folder, out_folder, *self._accepted(model_folder), lambda layer: None, is_tried=True)

    def _accepted(self, model_folder: Path) -> tuple[ModelSpec, Layout]:
        _, spec = accepted_model(self, model_folder)
        return spec, Layout(spec, self.precision, model_dtype(model_folder), self.mixed_grid(model_folder))

    def weights(self, folder: Path, spec: ModelSpec) -> MlxWeights:
        dtype = read_dtype(folder)
        return MlxWeights(folder, spec, Layout(spec, self.precision, dtype, self.written_grid(folder)))

    @property
    def _quantises(self) -> bool:
        return self.average is not None or PRECISIONS[self.precision].bits is not None


def _unknown_layer(spec: ModelSpec) -> str | None:
    """The first part of layers that the model file lacks, in words; None: it lacks none."""
    for sublayer in spec.sublayers:
        if not isinstance(sublayer, _KINDS):
            return sublayer.noun
        if isinstance(sublayer, Attention):
            if sublayer.has_sinks:
                return "attention sinks"
        elif sublayer.extra is not None:
            return sublayer.extra
    return None


def _unknown_part(experts: Experts) -> str | None:
    """The first part of a mixture of experts that the model file lacks, in words; None: it lacks none."""
    if experts.scores not in _SCORES:
        return f"the router {experts.scores}"
    if experts.activation != "silu" or experts.gates != Gates():
        return f"the gate {experts.activation}" if experts.activation != "silu" else "a bounded gate"
    return "biases" if experts.output_bias or experts.biases - {"router"} else None


def read_dtype(folder: Path) -> torch.dtype:
    """The dtype of what an MLX folder does not quantise."""
    try:
        name = read_json(folder / "config.json").get("dtype")
    except InputError as error:
        raise ArtifactError(str(error)) from error
    if name not in ("float32", "float16", "bfloat16"):
        raise ArtifactError(f"{folder / 'config.json'}: the dtype '{name!s:.40}' is not known; export again")
    dtype: torch.dtype = getattr(torch, name)
    return dtype
