"""The file that LiteRT-LM reads: a header that says where each section lies, and the sections.

Source: https://github.com/google-ai-edge/LiteRT-LM, schema/core/litertlm_header_schema.fbs and
python/litert_lm_builder; its builder puts a random number and the time into every file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.litert.packages import require
from seap_export.errors import ArtifactError

BUNDLE = "model.litertlm"
#: The kinds of sections, by their names in the schema.
METADATA, TOKENIZER, PROGRAM = "LlmMetadataProto", "HF_Tokenizer_Zlib", "TFLiteModel"
_MAGIC, _VERSION, _START, _BLOCK = b"LITERTLM", (1, 7, 0), 32, 1 << 14
#: What the parsers raise when they read a damaged file.
DAMAGES = (struct.error, ValueError, TypeError, LookupError, AttributeError, OverflowError, OSError)


@dataclass(frozen=True)
class Section:
    """A part of the file, of `size` bytes."""

    kind: str
    size: int
    items: Mapping[str, str]


def header(sections: Sequence[Section]) -> tuple[bytes, list[int]]:
    """Makes the header of a file; returns its bytes, and the offset in the file at which each section starts."""
    starts = [2 for _ in sections]  # a default would take no bytes
    length = len(_packed(sections, starts))
    end = _START + length
    for index, section in enumerate(sections):
        starts[index] = -(-end // _BLOCK) * _BLOCK
        end = starts[index] + section.size
    fields = struct.pack("<8s3IxxxxQ", _MAGIC, *_VERSION, _START + length)
    return fields + _packed(sections, starts), starts


def model_sections(sizes: Mapping[str, int]) -> list[Section]:
    """The sections of a model, in the order of the file; `sizes` are the bytes of each kind."""
    items = {PROGRAM: {"model_type": "tf_lite_prefill_decode"}}
    return [Section(kind, sizes[kind], items.get(kind, {})) for kind in (METADATA, TOKENIZER, PROGRAM)]


def _packed(sections: Sequence[Section], starts: Sequence[int]) -> bytes:
    schema = _schema()
    objects = [
        schema.SectionObjectT(
            items=[_item(schema, name, value) for name, value in section.items.items()],
            beginOffset=start,
            endOffset=start + section.size,
            dataType=getattr(schema.AnySectionDataType, section.kind),
        )
        for section, start in zip(sections, starts, strict=True)
    ]
    whole = schema.LiteRTLMMetaDataT(
        systemMetadata=schema.SystemMetadataT(entries=[_item(schema, "Authors", "seap-export")]),
        sectionMetadata=schema.SectionMetadataT(objects=objects),
    )
    builder = require("flatbuffers").Builder(1 << 10)
    builder.Finish(whole.Pack(builder))
    return bytes(builder.Output())


def _item(schema: Any, name: str, value: str) -> Any:
    return schema.KeyValuePairT(key=name, value=schema.StringValueT(value), valueType=schema.VData.StringValue)


def _schema() -> Any:
    return require("litert_lm_builder.litertlm_header_schema_py_generated")


class Bundle:
    """A written bundle, mapped into memory.

    Attributes:
        data: All bytes of the file.
        head: The header, which says what the sections are and where.

    Raises:
        ArtifactError: The file is missing, truncated or no bundle.
        EnvironmentFailure: A package of LiteRT is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.path, schema = folder / BUNDLE, _schema()
        try:
            with self.path.open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            magic, *_, end = struct.unpack_from("<8s3IxxxxQ", self.data)
            if magic != _MAGIC:
                raise ValueError("not a file of LiteRT-LM")
            told = schema.LiteRTLMMetaData.GetRootAs(self.data[:end], _START).SectionMetadata()
            entries = [told.Objects(index) for index in range(told.ObjectsLength())]
            self.head = self.data[:end]
            self._spans = {entry.DataType(): slice(entry.BeginOffset(), entry.EndOffset()) for entry in entries}
            if max(span.stop for span in self._spans.values()) > len(self.data):
                raise ValueError("truncated")
        except DAMAGES as error:
            raise self.damaged(error) from error

    def damaged(self, reason: object) -> ArtifactError:
        """Makes the error that the file is missing or damaged, for this reason."""
        return ArtifactError(f"{self.path}: missing or damaged ({' '.join(str(reason).split())}); export again")

    @property
    def sizes(self) -> dict[str, int]:
        """The number of bytes of each section, by kind; raises `ArtifactError` if one of them is missing."""
        spans = {kind: self.span(kind) for kind in (METADATA, TOKENIZER, PROGRAM)}
        return {kind: span.stop - span.start for kind, span in spans.items()}

    def span(self, kind: str) -> slice:
        """Where the section of a kind lies; raises `ArtifactError` if there is none."""
        span = self._spans.get(getattr(_schema().AnySectionDataType, kind))
        if span is None:
            raise self.damaged(f"no {kind}")
        return span

    def section(self, kind: str) -> bytes:
        """The bytes of a section; raises `ArtifactError` if there is none."""
        return self.data[self.span(kind)]
