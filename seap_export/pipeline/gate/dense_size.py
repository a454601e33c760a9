"""The size of the whole model written like a variant's folder, of which reports give shares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converters.format import Format
from seap_export.common.checksums import shipped_bytes
from seap_export.common.providers import OWN_FORMAT
from seap_export.model.sources.tokenizer import tokenizer_names
from seap_export.pipeline.folder.contents import FormatFolder, Variant
from seap_export.pipeline.folder.whole import read_whole


def unusual_options(format: Format) -> dict[str, Any]:
    """The options of a format's graphs that are not the usual ones, as whole.json has them."""
    return {name: value for name, value in format.options().items() if (name, value) != ("logits", "last")}


def dense_bytes(variant: Variant, folder: FormatFolder) -> int:
    """The size of the whole model that was written beside a variant in the same way, or else an estimate."""
    return next(_written(variant, folder), None) or _estimated(variant, folder)


def _written(variant: Variant, folder: FormatFolder) -> Iterator[int | None]:
    format, task, manifest = folder.format, variant.plan.task, variant.export.manifest
    if (format.name, format.provider) == (OWN_FORMAT, "cpu"):
        wanted = task, format.precision, unusual_options(format)
        for row in read_whole(variant.export.path).values():
            if wanted == (row["task"], row["precision"], row["options"]):
                yield row["bytes"]
    for entry in manifest.variants.values():
        is_whole = entry["num_parameters"] == manifest.source.get("num_parameters")
        if is_whole and (entry["task"], entry["precision"].get(folder.name)) == (task, format.precision):
            yield entry["bytes"][folder.name]


def _estimated(variant: Variant, folder: FormatFolder) -> int:
    size = shipped_bytes(folder.path) + folder.format.size(variant.dense_spec) - folder.format.size(variant.spec)
    if variant.vocabulary is None or folder.format.size_has_tokenizer:
        return size
    files = [folder.path / name for name in tokenizer_names(folder.path)]
    tokenizer = sum(file.stat().st_size for file in files if file.is_file())
    return size + tokenizer * (variant.vocabulary.of - len(variant.vocabulary)) // len(variant.vocabulary)
