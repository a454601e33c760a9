"""Tasks as Python has them: names with texts, records, data sets or sources, or sources as on the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seap_export.common.values import Given, Mismatch, NameOrPath
from seap_export.errors import UsageError

if TYPE_CHECKING:
    from seap_export.corpus import Task
    from seap_export.model.vocabulary.choice import VocabularySize
    from seap_export.pipeline.request.mixtures import Support

_EXPECTED = "a mapping from names to texts, records or files, or a list of NAME=SOURCE"


def _task(name: str, texts: object) -> Task:
    from seap_export.corpus import Task, parse_task
    from seap_export.corpus.memory import MemoryCorpus

    if isinstance(texts, str | os.PathLike):
        return parse_task(f"{name}={os.fsdecode(texts)}")
    if isinstance(texts, Mapping):  # a `datasets.DatasetDict`, or one record
        keys = ", ".join(map(repr, texts))
        raise UsageError(f"task '{name}': a mapping with {keys:.60}; give a list of records, or one of its data sets")
    if hasattr(texts, "itertuples"):  # iterating over a data frame gives the names of its columns
        raise UsageError(f"task '{name}': a data frame; give its records, as .to_dict('records') returns them")
    if not isinstance(texts, Iterable) or isinstance(texts, bytes):
        raise Mismatch(_EXPECTED)
    return Task(name, MemoryCorpus(name, list(texts) if isinstance(texts, Iterator) else texts))


class Tasks(
    Given[
        Mapping[str, str | os.PathLike[str] | Iterable[str] | Iterable[Mapping[str, Any]]] | str | Sequence[str],
        "tuple[Task, ...]",
    ]
):
    """Names with a list of texts, a list of records (such as `{"messages": ...}`), a `datasets.Dataset`, a path or the
    name of a data set; or NAME=SOURCE as on the command line, one or several.
    """

    @classmethod
    def read(cls, value: object) -> tuple[Task, ...]:
        """Parses the value into tasks.

        Raises:
            UsageError: A source is malformed, a data set has several splits, or two tasks have the same name.
            InputError: A file cannot be used.
        """
        from seap_export.corpus import Task, parse_task
        from seap_export.corpus.parse import refuse_same_names

        if isinstance(value, tuple) and all(isinstance(task, Task) for task in value):
            tasks = value
        elif isinstance(value, Mapping):
            tasks = tuple(_task(str(name), texts) for name, texts in value.items())
        else:
            specs = (value,) if isinstance(value, str) else value
            if not isinstance(specs, Sequence) or not all(isinstance(spec, str) for spec in specs):
                raise Mismatch(_EXPECTED)
            if len(specs) > 1 and all(" " in spec.partition("=")[0] and not os.path.exists(spec) for spec in specs):
                raise UsageError(f"{specs[0]!r:.40} seems to be a text; name the task, as in {{'maths': texts}}")
            tasks = tuple(map(parse_task, specs))
        refuse_same_names(tasks)
        return tasks


class SupportOrNone(Given[str | os.PathLike[str] | None, "Support | None"]):
    """A text as SOURCE or SOURCE:SHARE, or None."""

    @classmethod
    def read(cls, value: object) -> Support | None:
        """Raises what `parse_support` raises."""
        from seap_export.pipeline.request.mixtures import Support, parse_support

        return value if value is None or isinstance(value, Support) else parse_support(NameOrPath.read(value))


class TokensKept(Given[int | str, "VocabularySize"]):
    """A number of tokens, "auto" or "all"."""

    @classmethod
    def read(cls, value: object) -> VocabularySize:
        """Raises what `parse_size` raises."""
        from seap_export.model.vocabulary.choice import parse_size

        return parse_size(str(value))
