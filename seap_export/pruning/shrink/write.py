"""Writes the shrunk model as a folder that transformers loads."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path

import torch

from seap_export.common.json_file import write_json
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec, names
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.kept import UNFINISHED
from seap_export.model.sources.source import Source
from seap_export.model.sources.stored import StoredForm
from seap_export.model.sources.tensor_writer import SafetensorsWriter
from seap_export.model.sources.tokenizer import note_plain_texts
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.shrink.config import shrunk_config
from seap_export.pruning.shrink.sequential import SequentialLayers
from seap_export.pruning.shrink.single import single_layers

#: The code shipped with a model whose layers differ in shape, for environments without this package.
MODELING_FILES = ("configuration_seap.py", "modeling_seap.py")


def write_shrunk_model(
    source: Source,
    plan: Plan,
    statistics: TaskMixture,
    folder: Path,
    on_layer: Callable[[int], None] = lambda layer: None,
    *,
    compute: Compute | None = None,
    streams: Path | None = None,
) -> None:
    """Writes safetensors, config, generation config and tokenizer into the existing `folder`.

    In the per-layer layout, writes the modelling code too. One layer of the dense model is in memory at a time. It
    continues what an interrupted call with the same arguments left in the folder; at most one layer is made again.

    Args:
        on_layer: Called with a layer's index once it is written.
        compute: Where layers are computed; None: on the CPU.
        streams: An existing folder where the sequential refit leaves the hidden states after the last layer; None:
            they are removed.
    """
    for what, digest in (("plan", plan.source_sha256), ("calibration", statistics.source_sha256)):
        if digest != source.digest:
            raise InputError(f"the {what} was not made from the model '{source.name}'; make it again")
    if dict(plan.weights) != statistics.weights:
        raise InputError(
            f"the plan was made from the statistics of {_listed(plan.weights)}, not of {_listed(statistics.weights)}; "
            "give those, with the same weights"
        )
    spec = plan.shrunk_spec(source.spec)
    reduced = source if plan.vocabulary is None else source.with_tokens(plan.vocabulary)
    config = shrunk_config(reduced, spec, plan.settings.layout)
    write_json(folder / "config.json", config, indent=2, sort_keys=True)
    if reduced.generation_config is not None:
        write_json(folder / "generation_config.json", dict(reduced.generation_config), indent=2, sort_keys=True)
    reduced.write_tokenizer(folder)
    if statistics.is_plain:
        note_plain_texts(folder)
    for name in MODELING_FILES if plan.settings.layout == "per-layer" else ():
        with resources.as_file(resources.files("seap_export.model.modeling") / name) as file:
            shutil.copyfile(file, folder / name)
    unfinished, compute = streams or folder / UNFINISHED, compute or Compute()
    unfinished.mkdir(exist_ok=True)

    def layers(first: int) -> Iterator[Mapping[str, torch.Tensor]]:
        return single_layers(source, plan, statistics, first, compute.device)

    if plan.settings.compensation == "sequential" and any(plan.compensated(source.spec)):
        walk = SequentialLayers(source, plan, statistics, unfinished, compute)
        saved = walk.saved if streams is not None else walk.saved | {len(spec.layers)}  # they are of no more use there
        write_weights(reduced, spec, walk.layers, folder, on_layer, saved=saved)
    else:
        write_weights(reduced, spec, layers, folder, on_layer)
    if streams is None:
        shutil.rmtree(unfinished)


def write_weights(
    source: Source,
    spec: ModelSpec,
    layers: Callable[[int], Iterable[Mapping[str, torch.Tensor]]],
    folder: Path,
    on_layer: Callable[[int], None] = lambda layer: None,
    saved: Collection[int] | None = None,
) -> None:
    """Writes model.safetensors in the family's stored form, or the rest of it.

    Args:
        source: Gives the tensors outside the layers, and the dtypes.
        layers: Gives the tensors of its layers from an index on, in the plain form.
        folder: Where to; an unfinished file of the same tensors there is continued.
        on_layer: Called with a layer's index once it is written.
        saved: The layers that it can go on before, besides the first one; None: all, and behind the last one.
    """
    form = StoredForm(spec)
    dtypes = {stored: source.dtype_of(plain) for plain in spec.tensors() for stored in form.holders([plain])}
    with SafetensorsWriter(folder / "model.safetensors", form.shapes, dtypes, resume=True) as writer:
        _write_outer(source, spec, form, writer)
        holders = [form.holders(spec.layer_tensors(index)) for index in range(len(spec.layers))]
        first = _first_to_write(writer, holders, saved)
        for index in range(first):
            on_layer(index)
        if first == len(holders):
            return
        for index, plain in enumerate(layers(first), start=first):
            tensors = form.to_stored(plain)
            for stored in holders[index]:
                writer.write(stored, tensors[stored])
            writer.flush()
            on_layer(index)
            del plain, tensors  # before the next layer is made


def _write_outer(source: Source, spec: ModelSpec, form: StoredForm, writer: SafetensorsWriter) -> None:
    """Writes those tensors outside of the layers that are missing."""
    for name in spec.outer_names:
        for stored in form.holders([names.tensor(name)]):
            if stored in writer.pending:
                writer.write(stored, form.to_stored({names.tensor(name): source.read_outer(name)})[stored])


def _first_to_write(writer: SafetensorsWriter, holders: Sequence[Sequence[str]], saved: Collection[int] | None) -> int:
    """The first layer to be made; all that is written of it and of later ones is dropped."""
    count = sum(stored[-1] not in writer.pending for stored in holders)
    first = count if saved is None else max((index for index in saved if index <= count), default=0)
    if first < len(holders):
        writer.rewind(holders[first][0])
    return first


def _listed(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{task}:{weight:g}" for task, weight in weights.items())
