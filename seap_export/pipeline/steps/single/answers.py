"""The dense model's answers to a task's prompts, which stand in for the completions of its corpus."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from seap_export.common.durable import keep
from seap_export.corpus import LAST_NUMBER, AnswerRule, Sample, Split, Task
from seap_export.errors import ArtifactError
from seap_export.model.families import Attention, ModelSpec
from seap_export.model.sources.source import Source
from seap_export.pipeline.folder.dense_folder import dense_folder
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.folder.names import answers_step
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.request.options import CalibrationSettings
from seap_export.pipeline.steps.step import PathStep, StepContext
from seap_export.pipeline.texts.chat import chat_of_source
from seap_export.runtime.files import encode_all
from validation.execution import Execution
from validation.generation.greedy import Continuation
from validation.generation.writer import Writer, open_writer

#: Increased when the same inputs give different bytes than before, so that older answers are not reused.
_VERSION = 1
_FILE = "answers.jsonl"
#: Prompts that run together at most, after which their answers are on disk, and what their keys and values may take.
_BATCH, _CACHE_BYTES = 64, 4 << 30
#: The answers of a task that does not say where they end.
_NO_STOP = AnswerRule(LAST_NUMBER)


@dataclass(frozen=True)
class AnswersStep(PathStep):
    """Lets the dense model answer the prompts that calibration and checks can use, by greedy decoding.

    Attributes:
        prompts: The task's prompts; those to hold out are all answered, the others until there are tokens enough.
    """

    resumes = True
    unit = "answers"

    task: str
    prompts: Split
    rule: AnswerRule
    settings: CalibrationSettings
    model: str

    @property
    def name(self) -> str:
        return answers_step(self.task)

    @property
    def tasks(self) -> tuple[str, ...]:
        return (self.task,)

    @property
    def label(self) -> str:
        return f"answering prompts of {self.task}"

    @property
    def reused(self) -> str:
        return f"answers of {self.task}: reused"

    @property
    def units(self) -> int:
        return len(self.prompts.held_out) + self._most_calibration

    @property
    def most_tokens(self) -> int:
        tokens = (self.prompts.num_tokens or 0) + self._most_calibration * self.settings.answer_tokens
        return tokens if self.settings.most_tokens is None else min(tokens, self.settings.most_tokens)

    @property
    def _most_calibration(self) -> int:
        """Calibration prompts that are answered at most, if answers are as long as they may be."""
        number, most = len(self.prompts.calibration), self.settings.most_tokens
        return number if most is None else min(number, 1 + most // self.settings.answer_tokens)

    @property
    def _samples(self) -> tuple[Sample, ...]:
        return (*self.prompts.held_out, *self.prompts.calibration)

    def _inputs(self) -> dict[str, Any]:
        texts = [
            [sample.prompt for sample in samples] for samples in (self.prompts.held_out, self.prompts.calibration)
        ]
        settings = self.settings
        return {
            "model": self.model,
            "prompts": texts,
            "stop": list(self.rule.stop),
            "answer_tokens": settings.answer_tokens,
            "tokens": settings.most_tokens,
            "max_length": settings.max_length,
            RELEASE: _VERSION,
        }

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        """Writes a line for each answer, and goes on after those that an interrupted call wrote."""
        file = path / _FILE
        lines, rows = _read(file), self._rows(work.source.spec)
        lines = lines[: len(lines) // rows * rows]
        for line in lines:
            advance(line)
        prompts = [sample.prompt for sample in self._samples]
        end = chat_of_source(work.source).answer_end if any(map(_is_conversation, self._samples)) else ""
        execution = Execution(threads=torch.get_num_threads(), compute=work.compute)
        with (
            dense_folder(work.source) as folder,
            open_writer(folder, prompts, self.settings.answer_tokens, rows, execution) as writer,
        ):
            while len(lines) < len(prompts) and not self._is_enough(lines, writer):
                some = self._samples[len(lines) : len(lines) + rows]
                answers = writer.answers([sample.prompt for sample in some], self.rule, advance)
                lines += [_line(*pair, end) for pair in zip(some, answers, strict=True)]
                _write(file, lines)
            number = len(self.prompts.held_out) + max(1, self._within(lines, writer))
        lines = lines[:number]
        _write(file, lines)
        if cut := sum(not line["finished"] for line in lines):
            of, most = f"{cut} of {len(lines)} answers", self.settings.answer_tokens
            work.progress.say(
                f"{self.task}: {of} were cut off after {most} tokens; raise answer_tokens to let them end"
            )

    def _rows(self, spec: ModelSpec) -> int:
        """How many prompts run together, the same on every machine."""
        tokens = self.settings.max_length + self.settings.answer_tokens
        cached = sum(2 * 4 * one.num_key_value_heads * one.head_dim * tokens for one in spec.all(Attention))
        return max(1, min(_BATCH, _CACHE_BYTES // max(1, cached)))

    def _is_enough(self, lines: Sequence[Mapping[str, Any]], writer: Writer) -> bool:
        return self._within(lines, writer) < len(lines) - len(self.prompts.held_out)

    def _within(self, lines: Sequence[Mapping[str, Any]], writer: Writer) -> int:
        """The number of calibration texts that have no more than the tokens to calibrate on."""
        texts = [line["prompt"] + line["completion"] for line in lines[len(self.prompts.held_out) :]]
        total = number = 0
        for ids in encode_all(writer.tokenizer, texts):
            total += min(len(ids), self.settings.max_length)
            if self.settings.most_tokens is not None and total > self.settings.most_tokens:
                break
            number += 1
        return number

    def answered(self, folder: Path) -> Split:
        """The texts of the task, once the answers are in an output folder."""
        file = folder / self.name / _FILE
        lines, samples, held_out = _read(file), self._samples, len(self.prompts.held_out)
        if not held_out < len(lines) <= len(samples):
            raise ArtifactError(f"{file}: {len(lines)} answers do not belong to {len(samples)} prompts; use --force")
        texts = tuple(
            replace(sample, completion=line["completion"]) for sample, line in zip(samples, lines, strict=False)
        )
        return replace(self.prompts, calibration=texts[held_out:], held_out=texts[:held_out])


def answers_steps(
    source: Source, tasks: Sequence[Task], prompts: Mapping[str, Split], settings: CalibrationSettings
) -> dict[str, AnswersStep]:
    """The step of each task; none if the completions of the corpora are used."""
    if settings.answers == "data":
        return {}
    return {
        task.name: AnswersStep(task.name, prompts[task.name], task.answer or _NO_STOP, settings, source.digest)
        for task in tasks
    }


def _is_conversation(sample: Sample) -> bool:
    return sample.question != sample.prompt


def _line(sample: Sample, answer: Continuation, template_end: str) -> dict[str, Any]:
    """An answer with the text that ends it, as in the corpora of conversations, if it has ended."""
    end = template_end if _is_conversation(sample) and template_end else answer.end
    completion = answer.text + end if answer.is_stopped else answer.text
    return {"prompt": sample.prompt, "completion": completion, "finished": answer.is_stopped}


def _read(file: Path) -> list[dict[str, Any]]:
    """The complete lines of a file of answers; none if there is no file."""
    return list(_lines(file)) if file.is_file() else []


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for text in file.read_text("utf-8").split("\n")[:-1]:
        try:
            line = json.loads(text)
            if not isinstance(line["prompt"], str) or not isinstance(line["completion"], str):
                raise TypeError("no texts")
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{file}: damaged ({error}); use --force") from error
        yield line


def _write(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Replaces a file of answers atomically."""
    part = file.with_suffix(".part")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    part.write_text(text, "utf-8", newline="\n")
    keep(part, file)
