"""A corpus in memory: a list of texts or of records, or a data set of the `datasets` library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seap_export.errors import InputError


@dataclass(frozen=True)
class MemoryCorpus:
    """Texts, or records like those of a file.

    Attributes:
        task: The name of the task, for error messages.
        items: Texts, or mappings from fields to values; they can be iterated over more than once.
        notice: The notice for the user, which is empty.
    """

    task: str
    items: Iterable[object]
    notice = ""

    def __str__(self) -> str:
        return "the given texts"

    def records(self) -> Iterator[dict[str, Any]]:
        """The records in their order; a text is the field `text` of its record.

        Raises:
            InputError: There is none, or one is neither a text nor a mapping, or has a text that is not Unicode.
        """
        number, where = 0, f"task '{self.task}': {self}"
        for number, item in enumerate(self.items, start=1):
            if not isinstance(item, str | Mapping):
                raise InputError(
                    f"{where}, record {number}: not a string or a mapping, but {item!r:.40}; correct or drop it"
                )
            record = {"text": item} if isinstance(item, str) else dict(item)
            try:  # half of a surrogate pair cannot be encoded
                json.dumps(record, ensure_ascii=False, default=str).encode()
            except ValueError as error:
                reason = f"{where}, record {number}: not valid Unicode ({error}); correct or drop it"
                raise InputError(reason) from error
            yield record
        if not number:
            raise InputError(f"{where}: the list is empty; give at least one text")
