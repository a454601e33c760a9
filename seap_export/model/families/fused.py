"""Finds the rows of projections that a checkpoint stores as one."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from seap_export.model.families.family import FUSED, Family
from seap_export.model.families.layer_spec import LayerSpec
from seap_export.model.families.names import Projection
from seap_export.model.families.sublayers import Attention, DeltaNet

#: Rows of a stored tensor: a slice where they follow each other, else their numbers, int64.
Rows = slice | torch.Tensor
#: What each part is for: the kind of sublayer, and its attribute with their number.
_PARTS: Mapping[str, tuple[type[Attention] | type[DeltaNet], str]] = {
    "heads": (Attention, "num_attention_heads"),
    "groups": (Attention, "num_key_value_heads"),
    "key_heads": (DeltaNet, "linear_num_key_heads"),
}


def fused_rows(family: Family, layer: LayerSpec, widths: Mapping[Projection, int]) -> dict[Projection, Rows]:
    """Where the rows of each fused projection of a layer are in the stored one.

    Args:
        widths: The rows of the layer's projections.
    """
    rows: dict[Projection, Rows] = {}
    for fused in family.fused:
        if FUSED[fused][0] not in widths:
            continue
        rule = family.rows_of(fused)
        parts = (
            rule.parts if isinstance(rule.parts, int) else getattr(layer[_PARTS[rule.parts][0]], _PARTS[rule.parts][1])
        )
        total, start = sum(widths[name] for name in rule.order) // parts, 0
        numbers = torch.arange(parts * total).view(parts, total)
        for name in rule.order:
            shares = []
            for width in _sections(layer, name, widths[name]):
                shares.append(slice(start, start + width // parts))
                start = shares[-1].stop
            whole = slice(shares[0].start, start)
            rows[name] = whole if parts == 1 else torch.cat([numbers[:, share].flatten() for share in shares])
    return rows


def _sections(layer: LayerSpec, name: Projection, width: int) -> tuple[int, ...]:
    """The rows of a projection that have shares of their own in each part: queries, keys and values in one."""
    if name != "delta_qkv_proj":
        return (width,)
    keys = layer[DeltaNet].keys
    return keys, keys, width - 2 * keys
