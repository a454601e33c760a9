"""The tensors of a GGUF file, and where in them the tensors of the plain form are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.gguf.architectures import Architecture, full_rope
from converters.gguf.folding import Folding
from seap_export.families import Attention, ModelSpec, names
from seap_export.families.family import FUSED
from seap_export.families.names import NORMS, PROJECTIONS, Projection
from seap_export.families.sublayers import QK_NORMS

__all__ = ["FileTensor", "Part", "file_tensors"]

_NORM_NAMES: Mapping[str, str] = {
    "input_layernorm": "attn_norm",
    "post_self_attn_layernorm": "post_attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "post_mlp_layernorm": "post_ffw_norm",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
}
_PROJECTION_NAMES: Mapping[str, str] = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "qkv_proj": "attn_qkv",
    "gate_up_proj": "ffn_up",
}


@dataclass(frozen=True)
class Part:
    """A tensor of the plain form as rows of one in the file.

    Attributes:
        plain: Its full name in the plain form.
        rows: How many they are.
        factor: What they are multiplied with.
        order: Row i in the file is row `order[i]` of the plain form, int64 [rows]; None: the same.
    """

    plain: str
    rows: int
    factor: float = 1.0
    order: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class FileTensor:
    """A tensor in the file.

    Attributes:
        name: Its name.
        shape: (out, in) of a matrix, or (out,).
        parts: What its rows hold, from the first.
        layer: The layer that it belongs to; None: none.
        stem: Its name without layer and suffix, such as `attn_q`.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    layer: int | None = None
    stem: str = ""

    @property
    def columns(self) -> int:
        """The length of a row."""
        return self.shape[-1]

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


def file_tensors(architecture: Architecture, spec: ModelSpec) -> Iterator[FileTensor]:
    """The tensors of a model's file, in the order of use; those of the rotation are not among them."""
    outer, folding = spec.outer_tensors(), Folding.of(architecture, spec)
    stems = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}

    def of_outer(name: str) -> FileTensor:
        plain = names.tensor(name)
        part = Part(plain, outer[plain][0], folding.factor(name))
        return FileTensor(f"{stems[name]}.weight", outer[plain], (part,), stem=stems[name])

    yield of_outer("embed_tokens")
    for layer in range(len(spec.layers)):
        yield from _Layer(architecture, spec, folding, layer).tensors()
    for name in spec.outer_names[1:]:
        yield of_outer(name)


@dataclass(frozen=True)
class _Layer:
    """One layer of a file."""

    architecture: Architecture
    spec: ModelSpec
    folding: Folding
    index: int

    def tensors(self) -> Iterator[FileTensor]:
        shapes = self.spec.layer_tensors(self.index)
        for norm in (*NORMS, *QK_NORMS):
            plain = names.tensor(norm, self.index)
            if plain in shapes:
                stem = self.architecture.norm_names.get(norm, _NORM_NAMES[norm])
                order = self._order(shapes[plain][0] // self.spec.head_dim) if norm in QK_NORMS else None
                part = Part(plain, shapes[plain][0], self.folding.factor(norm), order)
                yield FileTensor(f"blk.{self.index}.{stem}.weight", shapes[plain], (part,), self.index, stem)
        for stored, projections in self._stored().items():
            for suffix in (".weight", ".bias"):
                if names.tensor(projections[0], self.index) + suffix in shapes:
                    yield self._projections(stored, projections, suffix, shapes)

    def _stored(self) -> dict[str, tuple[Projection, ...]]:
        """The projections that the file has as one, by name."""
        fused = {one: name for name in self.architecture.fused for one in FUSED[name]}
        stored: dict[str, tuple[Projection, ...]] = {}
        for projection in PROJECTIONS:
            name = fused.get(projection, projection)
            stored[name] = (*stored.get(name, ()), projection)
        return stored

    def _projections(
        self, stored: str, projections: tuple[Projection, ...], suffix: str, shapes: Mapping[str, tuple[int, ...]]
    ) -> FileTensor:
        layer = self.spec.layers[self.index][Attention]
        heads = {"q_proj": layer.num_attention_heads, "k_proj": layer.num_key_value_heads}
        parts: list[Part] = []
        shape: tuple[int, ...] = (0,)
        for projection in projections:
            plain = names.tensor(projection, self.index) + suffix
            order = self._order(heads[projection]) if projection in heads else None
            parts.append(Part(plain, shapes[plain][0], self.folding.factor(projection), order))
            shape = (shape[0] + shapes[plain][0], *shapes[plain][1:])
        stem = _PROJECTION_NAMES[stored]
        return FileTensor(f"blk.{self.index}.{stem}{suffix}", shape, tuple(parts), self.index, stem)

    def _order(self, heads: int) -> NDArray[np.int64] | None:
        """How the rows of heads are ordered so that llama.cpp rotates the same pairs."""
        rope = full_rope(self.spec)
        if rope is None or rope.interleaved == self.architecture.neighbours:
            return None
        pairs = np.arange(rope.dim).reshape(2, -1).T if self.architecture.neighbours else None
        rotated = (np.arange(rope.dim).reshape(-1, 2).T if pairs is None else pairs).reshape(-1)
        head = np.concatenate([rotated, np.arange(rope.dim, self.spec.head_dim)])
        starts = np.arange(heads)[:, None] * self.spec.head_dim
        return np.asarray(starts + head, np.int64).reshape(-1)
