"""Reports each layer of a model as soon as all its tensors are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from seap_export.model.families import names


class LayerProgress:
    """Counts the tensors of each layer as they are written, in any order.

    Args:
        tensor_names: Names of all tensors that will be written; those outside of layers are ignored.
        on_layer: Called with a layer's index once all tensors of the layer are written.
    """

    def __init__(self, tensor_names: Iterable[str], on_layer: Callable[[int], None]) -> None:
        layers = ((name, names.layer_of(name)) for name in tensor_names)
        self._layer_of = {name: layer for name, layer in layers if layer is not None}
        self._left = Counter(self._layer_of.values())
        self._on_layer = on_layer

    def add(self, name: str) -> None:
        """Counts a tensor as written, and reports its layer if it was the last one."""
        layer = self._layer_of.get(name)
        if layer is None:
            return
        self._left[layer] -= 1
        if self._left[layer] == 0:
            self._on_layer(layer)
