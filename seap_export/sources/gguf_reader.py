"""The weights of a GGUF file with the names and the layout of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from seap_export.errors import InputError
from seap_export.families import Family, names
from seap_export.sources.gguf_file import GgufFile

__all__ = ["GGUF_PROJECTIONS", "ROPE_FACTORS", "GgufReader"]

#: GGUF tensor names and the matching keys of `Family.names`; projections have a suffix, `.weight` or `.bias`.
_OUTER = {"token_embd.weight": "embed_tokens", "output_norm.weight": "norm", "output.weight": "lm_head"}
_LAYER = {
    "attn_norm.weight": "input_layernorm",
    "attn_q_norm.weight": "q_norm",
    "attn_k_norm.weight": "k_norm",
    "ffn_norm.weight": "post_attention_layernorm",
}
GGUF_PROJECTIONS = {
    "attn_q": "q_proj",
    "attn_k": "k_proj",
    "attn_v": "v_proj",
    "attn_output": "o_proj",
    "ffn_gate": "gate_proj",
    "ffn_up": "up_proj",
    "ffn_down": "down_proj",
}
#: Factors of the rotary frequencies: parameters stored as a tensor, not weights.
ROPE_FACTORS = "rope_freqs.weight"
_NARROW = {"F16": torch.float16, "BF16": torch.bfloat16}


class GgufReader:
    """A `WeightReader` for a GGUF file, with Hugging Face names and rotary row order."""

    def __init__(self, file: GgufFile) -> None:
        """Raises `InputError` if the head counts are missing or do not match the query and key rows."""
        self._file = file
        self._source = {_model_name(file.family, name): name for name in file.tensors if name != ROPE_FACTORS}
        heads = file.whole("attention.head_count")
        self._heads = {"attn_q": heads, "attn_k": file.whole("attention.head_count_kv", heads)}
        for name in self._source.values():
            heads = self._permuted_heads(name)
            if heads and file.tensors[name].shape[0] % (2 * heads):
                raise InputError(f"{file.path}: rows of '{name}' do not divide into {heads} heads of rotary pairs")
        kinds = {file.tensors[name].kind.name for name in self._source.values()}
        self._dtype = _NARROW.get(next(iter(kinds)), torch.float32) if len(kinds) == 1 else torch.float32

    @property
    def dtype(self) -> torch.dtype:
        """float16 or bfloat16 if all tensors have it, float32 otherwise."""
        return self._dtype

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape (out x in) of every tensor; tensors unknown to the family keep their GGUF names."""
        return {name: self._file.tensors[source].shape for name, source in self._source.items()}

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Reads and dequantises the named tensors.

        Raises:
            InputError: An encoding is not supported, or the file has changed since it was opened.
        """
        return {name: self._read(self._source[name]) for name in names}

    def _read(self, source: str) -> torch.Tensor:
        values = torch.from_numpy(self._file.read(source))
        heads = self._permuted_heads(source)
        if heads:
            # The file stores each head's rows as (pair, half); Hugging Face rotates (half, pair).
            values = values.reshape(heads, -1, 2, *values.shape[1:]).transpose(1, 2).flatten(0, 2)
        return values.to(self._dtype).contiguous()

    def _permuted_heads(self, source: str) -> int:
        """The number of heads whose rows are interleaved; 0 for a tensor in plain order."""
        part = source.split(".")[-2] if self._file.form.rotary_rows_permuted else ""
        return self._heads.get(part, 0)


def _model_name(family: Family, name: str) -> str:
    """The Hugging Face name of a GGUF tensor, or the GGUF name if there is none."""
    prefix, _, rest = name.partition(".")
    if name in _OUTER:
        return names.tensor(_OUTER[name])
    index, _, inner = rest.partition(".")
    stem, _, suffix = inner.partition(".")
    if prefix != "blk" or not index.isdecimal():
        return name
    if _LAYER.get(inner) in family.names:
        return names.tensor(_LAYER[inner], int(index))
    if stem in GGUF_PROJECTIONS and suffix in ("weight", "bias"):
        return names.tensor(GGUF_PROJECTIONS[stem], int(index)) + f".{suffix}"
    return name
