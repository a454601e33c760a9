"""Rows of projections that a checkpoint stores as one."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from seap_export.families.family import FUSED, Family
from seap_export.families.names import Projection
from seap_export.families.spec import LayerSpec
from seap_export.families.sublayers import Attention

__all__ = ["Rows", "fused_rows"]


#: Rows of a stored tensor: a slice where they follow each other, else their numbers, int64.
Rows = slice | torch.Tensor


def fused_rows(family: Family, layer: LayerSpec, widths: Mapping[Projection, int]) -> dict[Projection, Rows]:
    """Where the rows of each fused projection of a layer are in the stored one.

    Args:
        family: The family.
        layer: The layer.
        widths: The rows of the layer's projections.
    """
    rows: dict[Projection, Rows] = {}
    for fused in family.fused:
        if FUSED[fused][0] not in widths:
            continue
        rule = family.rows_of(fused)
        parts = rule.parts
        if not isinstance(parts, int):
            parts = getattr(layer[Attention], {"heads": "num_attention_heads", "groups": "num_key_value_heads"}[parts])
        total, start = sum(widths[name] for name in rule.order) // parts, 0
        for name in rule.order:
            share = slice(start, start + widths[name] // parts)
            rows[name] = share if parts == 1 else torch.arange(parts * total).view(parts, total)[:, share].flatten()
            start = share.stop
    return rows
