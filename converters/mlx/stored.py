"""Reads the weights of an MLX folder back, and compares them with those it was written from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from converters.comparison import ERROR_RATIO, Tolerance, are_as_near
from converters.mlx.layout import Layout
from converters.mlx.quantize import QuantizedRows, dequantize
from converters.mlx.writer import WEIGHTS, mlx_files, stored_parts
from converters.read_back import PlainWeights, open_plain
from converters.small_files import file_differences, foreign_files
from seap_export.errors import ArtifactError
from seap_export.model.families import ModelSpec

#: A number may be this many times as far off as half a unit in the last place of its dtype: machines round alike.
_ULPS = 2.0


class MlxWeights(PlainWeights):
    """The weights of an MLX folder as float32 tensors; none is in memory until it is read."""

    def __init__(self, folder: Path, spec: ModelSpec, layout: Layout) -> None:
        super().__init__(spec)
        self._path, self._layout = folder / WEIGHTS, layout
        for damage in shape_damages(folder, layout):
            raise ArtifactError(damage)

    def plain(self, name: str) -> torch.Tensor:
        """The tensor `name` of the plain form, dequantised to float32."""
        return values(name, self.parts(name), self._layout)

    def parts(self, name: str) -> dict[str, torch.Tensor]:
        """Reads the stored tensors that hold a tensor of the plain form, by their names in the file."""
        with safe_open(self._path, framework="pt") as file:
            return {part: file.get_tensor(part) for part in self._layout.parts(name)}


def values(name: str, parts: Mapping[str, torch.Tensor], layout: Layout) -> torch.Tensor:
    """The tensor of the plain form that the stored ones hold, float32."""
    rows = [layout.flat(name, part) for part in parts.values()]
    if layout.bits is None or layout.group(name) is None:
        return layout.plain(name, rows[0].float())
    return layout.plain(name, dequantize(QuantizedRows(*rows), layout.bits_of(name)))


def shape_damages(folder: Path, layout: Layout) -> Iterator[str]:
    """How the tensors of model.safetensors differ from the expected ones, in names, shapes and dtypes."""
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            entries = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            stored = {name: (tuple(entry.get_shape()), entry.get_dtype()) for name, entry in entries.items()}
    except (SafetensorError, OSError) as error:
        yield f"{path}: missing, truncated or not a safetensors file ({error}); export again"
        return
    labels = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint32: "U32"}
    for name, shape in layout.shapes.items():
        wanted = (shape, labels[layout.dtypes[name]])
        if name not in stored:
            yield f"{path}: tensor '{name}' is missing; export again"
        elif stored[name] != wanted:
            yield f"{path}: tensor '{name}' is {stored[name]}, not {wanted}; export again"
    for name in sorted(stored.keys() - layout.shapes.keys()):
        yield f"{path}: tensor '{name:.80}' is not part of the model; export again"


def folder_damages(model_folder: Path, folder: Path, spec: ModelSpec, layout: Layout) -> Iterator[str]:
    """Finds files that are missing, damaged, of another model than that of `model_folder`, or of none; a line each."""
    files = mlx_files(model_folder, spec, layout)
    yield from shape_damages(folder, layout)
    yield from file_differences(folder, files)
    yield from foreign_files(folder, [*files, WEIGHTS])


def weight_differences(model_folder: Path, folder: Path, spec: ModelSpec, layout: Layout) -> Iterator[str]:
    """The tensors that are further off than rounding, by their names in the plain form; see `Format.differences`."""
    weights, plain = MlxWeights(folder, spec, layout), open_plain(model_folder, spec)
    for name in spec.tensors():
        (wanted,) = plain.read([name]).values()
        fresh, stored = stored_parts(name, wanted, layout), weights.parts(name)
        if any(not torch.equal(stored[part], tensor) for part, tensor in fresh.items()):
            yield from _difference(name, wanted.float(), weights.plain(name), fresh, layout)


def _difference(
    name: str, wanted: torch.Tensor, stored: torch.Tensor, fresh: Mapping[str, torch.Tensor], layout: Layout
) -> Iterator[str]:
    group = layout.group(name)
    if layout.bits is None or group is None:
        info = torch.finfo(layout.dtype)
        tolerance = Tolerance(_ULPS * info.eps / 2, tiny=_ULPS * info.smallest_normal * info.eps / 2)
        is_same = not tolerance.exceeded(stored.numpy(), wanted.numpy()).any()
    else:
        near, best, wished = (
            layout.rows(name, tensor).reshape(-1, group).numpy()
            for tensor in (stored, values(name, fresh, layout), wanted)
        )
        is_same = bool(are_as_near(near, best, wished, ERROR_RATIO**2).all())
    if not is_same:
        yield f"'{name}' differs from hf/ by up to {(stored - wanted).abs().max().item():.3g}"
