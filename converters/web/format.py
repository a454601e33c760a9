"""The format of transformers.js: a model's folder with an ONNX graph in `onnx/`, for browsers and Node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import ClassVar

from converters.accepted import accepted_model
from converters.format import Format
from converters.onnx.graph.decoder import HEAD_DIM_MULTIPLE
from converters.onnx.read_back import GraphWeights
from converters.onnx.weights.overflow import find_scaling
from converters.onnx.weights.scaling import Scaling, read_scaling
from converters.onnx.weights.weights import open_weights
from converters.small_files import write_files
from converters.web.configs import web_files
from converters.web.data_files import CHUNK_BYTES, DataSlot, data_slots, write_graph
from converters.web.graph import shape_graph, web_graph
from converters.web.precisions import PRECISIONS, WAYS, file_name, precision_of
from converters.whole import whole_or_nothing
from seap_export.common.json_file import read_artifact
from seap_export.errors import ArtifactError
from seap_export.model.families import Attention, Experts, ModelSpec
from seap_export.pruning.rounding.grid import BlockQuantization, Way
from seap_export.pruning.rounding.shares import groups_of

#: Weights above this leave too little of WebAssembly's 4 GB, where a part of them is held twice.
_MOST_WASM = 2_500_000_000


@dataclass(frozen=True)
class WebFormat(Format):
    """Writes config.json, generation_config.json, the tokenizer and `onnx/`; see `converters.web.precisions`."""

    name: ClassVar[str] = "web"
    runtimes: ClassVar[tuple[str, ...]] = ("transformers.js",)
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    ways: ClassVar[tuple[Way, ...]] = WAYS
    version: ClassVar[int] = 6
    precision: str = PRECISIONS[0]

    @classmethod
    def read(cls, folder: Path) -> WebFormat:
        path = folder / "config.json"
        settings = read_artifact(path).get("transformers.js_config")
        precision = settings.get("dtype") if isinstance(settings, dict) else None
        if precision not in PRECISIONS:
            raise ArtifactError(f"{path}: its transformers.js_config names no known dtype; export again")
        return cls.mixed_of(folder) or cls(precision)

    def refusal(self, spec: ModelSpec, model_folder: Path) -> str | None:
        uneven = next((one.head_dim for one in spec.all(Attention) if one.head_dim % HEAD_DIM_MULTIPLE), None)
        if uneven is not None:
            return (
                f"head_dim {uneven} is not supported in transformers.js, whose GroupQueryAttention needs a multiple "
                f"of {HEAD_DIM_MULTIPLE}; use the format hf"
            )
        most = self.precision if self.average is None else PRECISIONS[0]
        largest = max(_slots(spec, most), key=lambda slot: slot.length)
        if largest.length > CHUNK_BYTES:
            smaller = [other for other in PRECISIONS if max(one.length for one in _slots(spec, other)) <= CHUNK_BYTES]
            remedy = f"use web:{smaller[0]}" if smaller else "use another format"
            return (
                f"the tensor '{largest.name}' takes {largest.length / 1e9:.1f} GB in {self.precision}, more than "
                f"the {CHUNK_BYTES / 1e9:.0f} GB that a browser loads as one; {remedy}"
            )
        return None

    def remark(self, spec: ModelSpec) -> str | None:
        """Says if only WebAssembly computes the model, or only WebGPU can hold it."""
        size = self.size(spec)
        if (reason := self._wrong_on_webgpu(spec)) is not None:
            return f"web: WebGPU {reason}; let the page compute in WebAssembly"
        if size <= _MOST_WASM:
            return None
        return f"web: {size / 1e9:.1f} GB of weights are too many for WebAssembly; such a page needs WebGPU"

    def _wrong_on_webgpu(self, spec: ModelSpec) -> str | None:
        """How WebGPU's kernels fail on the model; None: they compute it. See docs/research/webgpu.md."""
        if any(attention.softcap is not None for attention in spec.all(Attention)):
            return "ignores the soft cap of this model's attention"
        rounding = precision_of(self.precision)
        if any(spec.all(Experts)) and rounding.quantization is not None:
            return "computes this model's rounded experts wrongly"
        recurs = any("recurrent" in sublayer.states for sublayer in spec.sublayers)
        return "has no recurrence in float16" if recurs and rounding.dtype == "fp16" else None

    def size(self, spec: ModelSpec) -> int:
        size = sum(slot.length for slot in _slots(spec, self.precision))
        if self.average is None or (rounding := self.grid(spec)) is None:
            return size
        shapes, alike = spec.tensors(), next(way.average for way in WAYS if (way.bits, way.block_size) == (4, 32))
        chosen = sum(prod(shapes[name]) for group in groups_of(spec, rounding) for name in group.names)
        return size + round((self.average - alike) / 8 * chosen)

    def grid(self, spec: ModelSpec) -> BlockQuantization | None:
        grid = precision_of(self.precision).quantization
        if grid is not None and self.average is not None:
            return replace(grid, average=self.average, mix=self.name, ways=WAYS)
        return grid if grid is not None and grid.bits == 4 else None

    def write(self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
        self._write(model_folder, out_folder, on_layer)

    def write_like(self, written: Path, model_folder: Path, out_folder: Path) -> None:
        """Writes it with the written graph's powers of two: any are right that all of a graph follows."""
        self._write(model_folder, out_folder, lambda layer: None, read_scaling(self._graph(written)))

    def _write(
        self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None], scaling: Scaling | None = None
    ) -> None:
        config, spec = accepted_model(self, model_folder)
        precision = precision_of(self.precision, self.mixed_grid(model_folder))
        weights = open_weights(model_folder, spec, precision)
        if scaling is None:
            is_narrow = precision.dtype == "fp16"
            scaling = find_scaling(config, spec, weights.reader, precision) if is_narrow else Scaling()
        model = web_graph(spec, weights, precision, scaling)
        chunks = 1 + max(slot.chunk for slot in data_slots(model))
        with whole_or_nothing(out_folder):
            self._graph(out_folder).parent.mkdir()
            write_graph(model, self._graph(out_folder), on_layer)
            write_files(out_folder, web_files(model_folder, self.precision, chunks))

    def weights(self, folder: Path, spec: ModelSpec) -> GraphWeights:
        return GraphWeights(self._graph(folder), spec)

    def _graph(self, folder: Path) -> Path:
        """The graph, where transformers.js looks for it."""
        return folder / "onnx" / file_name(self.precision)


def _slots(spec: ModelSpec, name: str) -> Iterator[DataSlot]:
    return data_slots(shape_graph(spec, precision_of(name)))
