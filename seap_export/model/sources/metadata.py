"""A model's metadata: its licence, its languages and where it comes from.

A folder has them in the front matter of README.md, as model cards of the Hugging Face hub do, and a GGUF file in its
header. Malformed values count as missing: no figure depends on them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seap_export.model.sources.open import is_hub_id
from seap_export.model.sources.source import Source
from seap_export.model.sources.tokenizer import is_stray_link

#: The files that a licence asks to be passed on with the model.
_LICENCE_FILE = re.compile(r"(LICEN[CS]E|NOTICE|COPYING)[A-Za-z0-9_.-]*", re.IGNORECASE)
_HUB = re.compile(r"https?://(?:huggingface\.co|hf\.co)/([^/]+/[^/?#]+)/?")
#: The longest README or licence that is read (1 MiB), and the longest text in a front matter.
_MOST_BYTES, _MOST_LETTERS = 2**20, 256
_GGUF = {
    "license": "general.license",
    "license_name": "general.license.name",
    "license_link": "general.license.link",
    "language": "general.languages",
    "tags": "general.tags",
}
#: Where a GGUF file was converted from; if it does not say that, it may say what its model was made from.
_GGUF_SOURCES = ("general.source.repo_url", "general.source.url", "general.repo_url", "general.base_model.0.repo_url")


@dataclass(frozen=True)
class ModelMetadata:
    """The metadata of a model.

    Attributes:
        base_model: The model on the hub, or if it does not say which one it is, those that it was made from.
        license: The hub's name of the licence, such as `apache-2.0` or `other`; None: unknown.
        license_name: The name of another licence.
        license_link: Where that is, an address or a file beside the model.
        languages: ISO codes.
        tags: Any words.
        licence_files: The files with the licence and its notices, by name.
    """

    base_model: tuple[str, ...] = ()
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    licence_files: Mapping[str, bytes] = field(default_factory=dict)


def model_metadata(source: Source) -> ModelMetadata:
    """Reads the metadata of a model from its files."""
    file = source.files[0]
    is_gguf = file.suffix == ".gguf"
    values = _of_gguf(file) if is_gguf else _of_folder(file.parent)
    texts = {name: _texts(values.get(name)) for name in ("base_model", *_GGUF)}
    one = {name: next(iter(texts[name]), None) for name in ("license", "license_name", "license_link")}
    return ModelMetadata(
        base_model=tuple(filter(is_hub_id, texts["base_model"])) if source.hub_id is None else (source.hub_id,),
        **one,
        languages=texts["language"],
        tags=texts["tags"],
        licence_files={} if is_gguf else _licence_files(file.parent),
    )


def _of_folder(folder: Path) -> Mapping[str, Any]:
    from huggingface_hub import metadata_load

    readme = folder / "README.md"
    try:
        return (metadata_load(readme) or {}) if _is_readable(readme) else {}
    except Exception:  # errors of the YAML parser, which are of many kinds
        return {}


def _of_gguf(file: Path) -> Mapping[str, Any]:
    from seap_export.model.sources.gguf.header import read_header

    metadata, _ = read_header(file)
    addresses = (_HUB.fullmatch(str(metadata.get(key, ""))) for key in _GGUF_SOURCES)
    first = next((address[1] for address in addresses if address), None)
    return {"base_model": first, **{name: metadata.get(key) for name, key in _GGUF.items()}}


def _texts(value: object) -> tuple[str, ...]:
    """A text or a list of texts as one line each; nothing else is understood."""
    values = value if isinstance(value, list) else [value]
    lines = (" ".join(text.split()) for text in values if isinstance(text, str))
    return tuple(dict.fromkeys(line for line in lines if 0 < len(line) <= _MOST_LETTERS))


def _licence_files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.iterdir() if _LICENCE_FILE.fullmatch(path.name) and _is_readable(path))
    return {path.name: path.read_bytes() for path in sorted(paths)}


def _is_readable(file: Path) -> bool:
    return file.is_file() and not is_stray_link(file, file.parent) and file.stat().st_size <= _MOST_BYTES
