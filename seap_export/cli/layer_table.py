"""The columns of tables with a row for each layer of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def layer_columns(layers: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: the number of each layer and its sizes, which are given by the keys of config.json."""
    from seap_export.pruning.plan.sublayers import kinds_in

    columns = {size: heading for kind in kinds_in(layers) for size, (heading, _) in kind.size_words.items()}
    rows = [[str(index), *(str(layer.get(size, "-")) for size in columns)] for index, layer in enumerate(layers)]
    return ["layer", *columns.values()], rows


def pruned_parts(layers: Sequence[Mapping[str, Any]]) -> str:
    """The kinds of sublayers that some layers have, such as `attention and MLP`."""
    from seap_export.pruning.plan.sublayers import kinds_in

    return " and ".join(kind.name for kind in kinds_in(layers))
