"""Model folders that this product wrote, which need no conversion and no download."""

from __future__ import annotations

from pathlib import Path

from seap_export.common.json_file import read_json
from seap_export.model.families import model_spec
from seap_export.model.sources.source import Source
from seap_export.model.sources.stored import PlainReader, StoredForm
from seap_export.model.sources.tokenizer import copy_tokenizer
from seap_export.model.sources.weights import SafetensorsReader, check_weights


def folder_source(folder: Path) -> Source:
    """A model folder, dense or pruned."""
    config = read_json(folder / "config.json")
    spec, reader = model_spec(config), SafetensorsReader(folder)
    check_weights(reader, StoredForm(spec).shapes, str(folder))
    return Source(
        name=folder.name,
        config=config,
        generation_config=None,
        spec=spec,
        reader=PlainReader(reader, spec),
        files=(),
        write_tokenizer=lambda target: copy_tokenizer(folder, target),
    )
