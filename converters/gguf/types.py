"""Chooses the type of each tensor in a GGUF file, as llama.cpp does for each of its presets.

A preset is a type for most matrices and better ones for some: the LM head, and in some layers the values and the
second half of the MLP. Rows that are not whole blocks of a type get a smaller one, which takes more space. Vectors
are float32, and so are kernels and the small matrices that decide what a state remembers. Where matrices have bits of
their own, the other ones that are not float32 have the type of a preset.

Source: https://github.com/ggml-org/llama.cpp at 0c1e57098, src/llama-quant.cpp (llama_tensor_get_type_impl,
tensor_type_fallback), without an importance matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gguf import GGMLQuantizationType as Kind
from gguf.constants import GGML_QUANT_SIZES

from converters.gguf.layout import FileTensor


@dataclass(frozen=True)
class Preset:
    """A preset of llama.cpp."""

    number: int
    kind: Kind
    better: Kind | None = None
    head: Kind | None = None


#: The presets, by the names that llama.cpp's users know.
PRESETS: Mapping[str, Preset] = {
    "f32": Preset(0, Kind.F32),
    "f16": Preset(1, Kind.F16),
    "q8_0": Preset(7, Kind.Q8_0),
    "q4_0": Preset(2, Kind.Q4_0, head=Kind.Q6_K),
    "q4_k_m": Preset(15, Kind.Q4_K, Kind.Q6_K, Kind.Q6_K),
    "q5_k_m": Preset(17, Kind.Q5_K, Kind.Q6_K, Kind.Q6_K),
    "q6_k": Preset(18, Kind.Q6_K, head=Kind.Q6_K),
}
#: The preset of a file whose matrices have bits of their own; it says for the rest which type they have.
MIXED_PRESET = PRESETS["q8_0"]
#: For a K-quant, the type that takes its place where rows are not whole blocks of it.
_SMALLER = {Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0}
#: Only llama.cpp's library quantises these.
_OF_LIBRARY = frozenset({Kind.Q4_K, Kind.Q5_K, Kind.Q6_K})
_EXACT = ("ffn_gate_inp", "shortconv.conv", "ssm_conv1d", "ssm_alpha", "ssm_beta", "ssm_a", "ssm_d", "ssm_norm")
_VALUES = ("attn_v", "attn_qkv")


def wanted_type(tensor: FileTensor, preset: Preset, layers: int, tied: bool) -> Kind:
    """The type that a preset gives a tensor, whatever the length of its rows."""
    if len(tensor.shape) == 1 or tensor.stem in _EXACT:
        return Kind.F32
    if preset.head is not None and tensor.stem == ("token_embd" if tied else "output"):
        return Kind.Q8_0 if tensor.columns % _block(preset.kind) else preset.head
    if preset.better is not None and (tensor.stem in _VALUES or tensor.stem.startswith("ffn_down")):
        layer, first = int(tensor.layer or 0), layers // 8
        if layer < first or layer >= 7 * layers // 8 or (layer - first) % 3 == 2:
            return preset.better
    return preset.kind


def type_of(tensor: FileTensor, preset: Preset, layers: int, tied: bool) -> Kind:
    """The type that a tensor is stored in; see `wanted_type`."""
    kind = wanted_type(tensor, preset, layers, tied)
    if tensor.columns % _block(kind):
        kind = _SMALLER.get(kind, kind)
    return Kind.F16 if tensor.columns % _block(kind) else kind


def bytes_of(tensor: FileTensor, kind: Kind) -> int:
    """The bytes of a tensor in a type whose blocks its rows are; rows that are not count as if they were."""
    block, size = GGML_QUANT_SIZES[kind]
    return tensor.size * size // block


def needs_library(kind: Kind) -> bool:
    """Whether it takes llama.cpp's library to write this type."""
    return kind in _OF_LIBRARY


def _block(kind: Kind) -> int:
    return int(GGML_QUANT_SIZES[kind][0])
