"""The job that a variant has learnt: what its prompts look like, and where its answers end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_artifact
from seap_export.common.templates import fields_of, render, stripped
from seap_export.errors import ArtifactError, InputError, UsageError

#: The fields of one input, such as a row of a table.
Record = Mapping[str, Any]
#: Stands for the text of a prompt's only field.
_MARK = "\0"
#: The key of a tokenizer_config.json that holds a job.
JOB = "seap_export_job"


@dataclass(frozen=True)
class Job:
    """How a variant is asked, and how its answers are read.

    Attributes:
        prompt: Template of the prompt, such as "Message: {message}", a new line, and "Intent:".
        end: The text that ends an answer; "" if none does.
        answer: Path of the field that holds the right answer in a table of examples; "" if no single one does.
        labels: All answers that there are, if they are few; empty: an answer may be any text.
    """

    prompt: str
    end: str = ""
    answer: str = ""
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.fields  # noqa: B018 - which refuses a malformed template

    @property
    def fields(self) -> tuple[str, ...]:
        """The paths of the fields that the prompt is made from."""
        return fields_of(self.prompt)

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts before which an answer ends."""
        return (self.end,) if self.end else ()

    def asked(self, given: str | Record) -> str:
        """The prompt of a record, or of the text of its only field, without the white space around them.

        Raises:
            UsageError: A text is given, and there are several fields.
            InputError: The record lacks a field.
        """
        if isinstance(given, str) and len(self.fields) != 1:
            raise UsageError(
                f"this variant's prompts are made from {len(self.fields)} fields, {', '.join(self.fields)}; answer a "
                "table with 'seap-export predict', or give the whole prompt as it is (--raw)"
            )
        return render(self.prompt, stripped({self.fields[0]: given} if isinstance(given, str) else given))

    def input_of(self, prompt: str) -> str:
        """The text that a prompt was made from; "" if it stands there twice, or beside others."""
        around = self.asked(_MARK).split(_MARK) if len(self.fields) == 1 else []
        return prompt.removeprefix(around[0]).removesuffix(around[1]) if len(around) == 2 else ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "labels": list(self.labels)}


def read_job(folder: Path) -> Job | None:
    """The job that a model's folder has learnt; None: it has learnt none.

    Raises:
        ArtifactError: The folder's tokenizer_config.json is damaged.
    """
    path = folder / "tokenizer_config.json"
    values = read_artifact(path).get(JOB) if path.is_file() else None
    if values is None:
        return None
    try:
        labels = values.pop("labels", [])
        if not all(isinstance(value, str) for value in (*values.values(), *labels)) or isinstance(labels, str):
            raise TypeError(f"{values!r:.40}")
        return Job(**values, labels=tuple(labels))
    except (TypeError, AttributeError, InputError) as error:
        raise ArtifactError(f"{path}: {JOB} is not a job ({error}); it is damaged, export again") from error
