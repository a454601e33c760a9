"""Reads the weights of an MLX folder back, and compares them with those it was written from."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from converters.mlx.layout import Layout
from converters.mlx.quantize import QuantizedRows, dequantize
from converters.mlx.writer import MODEL_FILE, WEIGHTS, mlx_files, open_plain, stored_parts
from converters.small_files import file_differences
from seap_export.errors import ArtifactError
from seap_export.families import ModelSpec
from seap_export.sources.stored import StoredForm

__all__ = ["MlxWeights", "folder_damages", "weight_differences"]

#: A number may be this many times as far off as half a unit in the last place of its dtype: machines round alike.
_ULPS = 2.0
#: A row of quantised weights may be this many times as far from the model's as if it were quantised now.
_ERROR_RATIO = 1.01


class MlxWeights:
    """The weights of an MLX folder as float32 tensors; none is in memory until it is read.

    Args:
        folder: model.safetensors as `layout` says.
        spec: The model.
        layout: What is stored.

    Raises:
        ArtifactError: The file is missing or damaged, or holds other tensors.
    """

    def __init__(self, folder: Path, spec: ModelSpec, layout: Layout) -> None:
        self._path, self._layout = folder / WEIGHTS, layout
        self._form = StoredForm(spec)
        self._plain_of: dict[str, list[str]] = {}
        for name in spec.tensors():
            for stored in self._form.holders([name]):
                self._plain_of.setdefault(stored, []).append(name)
        for damage in shape_damages(folder, layout):
            raise ArtifactError(damage)

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Tensors by the names and in the form of hf/, float32."""
        wanted = list(names)
        plain = [name for stored in wanted for name in self._plain_of[stored]]
        made = self._form.to_stored(self.plain(plain))
        return {name: made[name].float() for name in wanted}

    def plain(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Tensors of the plain form, float32."""
        return {name: self._whole(name, self.parts(name)) for name in names}

    def parts(self, name: str) -> dict[str, torch.Tensor]:
        """The stored tensors of one of the plain form."""
        with safe_open(self._path, framework="pt") as file:
            return {part: file.get_tensor(part) for part in self._layout.parts(name)}

    def _whole(self, name: str, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if self._layout.bits is None or self._layout.group(name) is None:
            return parts[name].float()
        return dequantize(QuantizedRows(*parts.values()), self._layout.bits)


def shape_damages(folder: Path, layout: Layout) -> Iterator[str]:
    """How the tensors of model.safetensors differ from what is to be there, in names, shapes and dtypes."""
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            entries = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            found = {name: (tuple(own.get_shape()), own.get_dtype()) for name, own in entries.items()}
    except (SafetensorError, OSError) as error:
        yield f"{path}: missing, truncated or not a safetensors file ({error}); export again"
        return
    labels = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint32: "U32"}
    for name, shape in layout.shapes.items():
        wanted = (shape, labels[layout.dtypes[name]])
        if name not in found:
            yield f"{path}: tensor '{name}' is missing; export again"
        elif found[name] != wanted:
            yield f"{path}: tensor '{name}' is {found[name]}, not {wanted}; export again"
    for name in sorted(found.keys() - layout.shapes.keys()):
        yield f"{path}: tensor '{name:.80}' is not part of the model; export again"


def folder_damages(model_folder: Path, folder: Path, spec: ModelSpec, layout: Layout) -> Iterator[str]:
    """Files that are missing, damaged or of another model than that of `model_folder`, in words.

    The model file may be that of another version of this package, and is only parsed.
    """
    yield from shape_damages(folder, layout)
    yield from file_differences(folder, mlx_files(model_folder, spec, layout))
    try:
        ast.parse((folder / MODEL_FILE).read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        yield f"{folder / MODEL_FILE}: missing or damaged ({' '.join(str(error).split())}); export again"


def weight_differences(model_folder: Path, folder: Path, spec: ModelSpec, layout: Layout) -> Iterator[str]:
    """The tensors that are further off than rounding, one line each, by their names in the plain form.

    Raises:
        ArtifactError: The folder's weights are missing or damaged.
        InputError: The model folder is damaged.
    """
    weights, plain = MlxWeights(folder, spec, layout), open_plain(model_folder, spec)
    for name in spec.tensors():
        (wanted,) = plain.read([name]).values()
        fresh = stored_parts(name, wanted, layout)
        found = weights.parts(name)
        if all(torch.equal(found[part], own) for part, own in fresh.items()):
            continue
        yield from _difference(name, wanted.float(), weights, fresh, layout)


def _difference(
    name: str, wanted: torch.Tensor, weights: MlxWeights, fresh: Mapping[str, torch.Tensor], layout: Layout
) -> Iterator[str]:
    (found,) = weights.plain([name]).values()
    off = (found - wanted).abs()
    if layout.bits is None or layout.group(name) is None:
        info = torch.finfo(layout.dtype)
        allowed = _ULPS * (info.eps / 2 * wanted.abs() + info.smallest_normal * info.eps / 2)
        is_same = bool((off <= allowed).all())  # not where one is NaN
    else:
        best = dequantize(QuantizedRows(*fresh.values()), layout.bits) - wanted
        is_same = bool((off.square().sum(1) <= _ERROR_RATIO**2 * best.square().sum(1)).all())
    if not is_same:
        yield f"'{name}' differs from hf/ by up to {off.max().item():.3g}"
