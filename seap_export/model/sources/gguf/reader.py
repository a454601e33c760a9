"""Reads the weights of a GGUF file in the plain form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from seap_export.errors import InputError
from seap_export.model.families import names
from seap_export.model.families.names import DENSE, QKV, Projection
from seap_export.model.sources.gguf.file import GgufFile
from seap_export.model.sources.gguf.names import NORM_NAMES, OUTER_STEMS, PROJECTION_NAMES

#: Names of the plain form, by the names of the file's tensors, or by their stems in a layer.
_OUTER = {f"{stem}.weight": name for name, stem in (*OUTER_STEMS.items(), ("norm", "output_norm"))}
_NORMS = {stored.removesuffix(".weight"): norm for norm, stored in NORM_NAMES.items()}
_PROJECTIONS: dict[str, tuple[Projection, ...]] = {
    PROJECTION_NAMES["qkv_proj"]: QKV,
    **{PROJECTION_NAMES[name]: (name,) for name in (*QKV, "o_proj", *DENSE)},
}
#: Factors of the rotary frequencies (of short and long inputs): parameters stored as tensors, not weights.
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
_NARROW = {"F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class _GgufRows:
    """Where a tensor of the plain form is: in rows of a tensor of the file, interleaved in each of `heads` heads."""

    source: str
    rows: slice
    heads: int = 0


class GgufReader:
    """A `WeightReader` of the plain form for a GGUF file."""

    def __init__(self, file: GgufFile) -> None:
        """Raises `InputError` if the head counts are missing or do not match the query and key rows."""
        self._file = file
        heads = file.by_layer("attention.head_count")
        head_dim = file.whole("attention.key_length", file.whole("embedding_length") // heads[0])
        key_heads, neurons = file.by_layer("attention.head_count_kv", heads), file.by_layer("feed_forward_length")
        self._heads: dict[str, list[int]] = {"q_proj": heads, "k_proj": key_heads}
        self._rows: dict[str, list[int]] = {
            "q_proj": [count * head_dim for count in heads],
            "k_proj": [count * head_dim for count in key_heads],
            "gate_proj": neurons,
        }
        self._parts = {plain: part for name in file.tensors for plain, part in self._plain_tensors(name)}
        for part in self._parts.values():
            if part.heads and self._shape(part)[0] % (2 * part.heads):
                raise InputError(
                    f"{file.path}: rows of '{part.source}' do not divide into {part.heads} heads of rotary pairs"
                )
        kinds = {file.tensors[part.source].kind.name for part in self._parts.values()}
        self._dtype = _NARROW.get(next(iter(kinds)), torch.float32) if len(kinds) == 1 else torch.float32

    def dtypes(self) -> dict[str, torch.dtype]:
        """float16 or bfloat16 if all tensors have it, float32 otherwise."""
        return dict.fromkeys(self._parts, self._dtype)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape (out x in) of every tensor; tensors unknown to the family keep their GGUF names."""
        return {name: self._shape(part) for name, part in self._parts.items()}

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        parts = {name: self._parts[name] for name in names}
        stored = {source: self._file.read(source) for source in dict.fromkeys(part.source for part in parts.values())}
        return {name: self._plain(torch.from_numpy(stored[part.source]), part) for name, part in parts.items()}

    def _plain(self, stored: torch.Tensor, part: _GgufRows) -> torch.Tensor:
        values = stored[part.rows]
        if part.heads:
            # The file stores each head's rows as (pair, half); the plain form rotates (half, pair).
            values = values.reshape(part.heads, -1, 2, *values.shape[1:]).transpose(1, 2).flatten(0, 2)
        return values.to(self._dtype).contiguous()

    def _shape(self, part: _GgufRows) -> tuple[int, ...]:
        rows, *rest = self._file.tensors[part.source].shape
        return (len(range(*part.rows.indices(rows))), *rest)

    def _plain_tensors(self, name: str) -> Iterator[tuple[str, _GgufRows]]:
        whole = _GgufRows(name, slice(0, None))
        if name in ROPE_FACTORS:
            return
        if name in _OUTER:
            yield names.tensor(_OUTER[name]), whole
            return
        layer, stem, suffix = _split(name)
        if layer >= self._file.whole("block_count"):
            yield name, whole
            return
        norm = {**_NORMS, **self._file.form.names}.get(stem)
        projections = projections_of(self._file, name)
        if norm in self._file.family.names and suffix == "weight":
            yield names.tensor(str(norm), layer), whole
        elif projections and suffix in ("weight", "bias"):
            start = 0
            for projection in projections:
                last = projection == projections[-1]
                rows = slice(start, None if last else start + self._rows[projection][layer])
                permuted = self._file.form.rotary_rows_permuted and projection in self._heads
                part = replace(whole, rows=rows, heads=self._heads[projection][layer] if permuted else 0)
                yield names.tensor(projection, layer) + f".{suffix}", part
                start = rows.stop
        else:
            yield name, whole


def projections_of(file: GgufFile, name: str) -> tuple[Projection, ...]:
    """The projections whose rows a tensor of a file holds, in their order; several if they are stored as one."""
    layer, stem, _ = _split(name)
    if stem == "ffn_up" and f"blk.{layer}.ffn_gate.weight" not in file.tensors:
        return ("gate_proj", "up_proj") if file.family.block.is_gated else ("up_proj",)
    return _PROJECTIONS.get(stem, ())


def _split(name: str) -> tuple[int, str, str]:
    """The layer, stem and suffix of `blk.{layer}.{stem}.{suffix}`; empty strings for other names."""
    prefix, _, rest = name.partition(".")
    index, _, inner = rest.partition(".")
    stem, _, suffix = inner.partition(".")
    return (int(index), stem, suffix) if prefix == "blk" and index.isdecimal() and len(index) < 10 else (0, "", "")
