"""Makes a rounded model again from what a format stores of it, where its own folder is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from seap_export.model.sources.config import read_spec
from seap_export.model.sources.stored import StoredForm
from seap_export.model.sources.tensor_writer import SafetensorsWriter
from seap_export.model.sources.weights import SafetensorsReader, check_weights
from seap_export.pruning.rounding.note import RoundingNote
from seap_export.pruning.rounding.write import write_other_files


def restore_rounded_model(
    model_folder: Path,
    read: Callable[[Iterable[str]], Mapping[str, torch.Tensor]],
    note: RoundingNote,
    folder: Path,
) -> list[str]:
    """Writes the folder of a rounded model as `write_rounded_model` does, one tensor in memory at a time.

    What rounding left as it was is the model folder's; `RoundingNote.origin_differences` says whether that is the one
    that was rounded.

    Args:
        model_folder: The model that was rounded: config.json, safetensors files and tokenizer.
        read: Gives tensors that a format stores, in float32, by the names and in the form of the model folder.
        folder: Where to; it exists and is empty.

    Returns:
        The tensors that are not proven to be those of the rounded model.

    Raises:
        ArtifactError: What the format stores is damaged.
        InputError: The model folder is damaged.
    """
    shapes = StoredForm(read_spec(model_folder)).shapes
    reader = SafetensorsReader(model_folder)
    check_weights(reader, shapes, str(model_folder))
    unproven = sorted(note.rounded.keys() - shapes.keys())
    with SafetensorsWriter(folder / "model.safetensors", shapes, torch.float32) as writer:
        for name in shapes:
            tensor = (read if name in note.rounded else reader.read)([name])[name].float()
            if name in note.rounded and not note.proves(name, tensor):
                unproven.append(name)
            writer.write(name, tensor)
    write_other_files(model_folder, folder, note)
    return unproven
