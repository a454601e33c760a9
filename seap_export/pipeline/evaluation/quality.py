"""The quality of a variant as an export measures it: beside the dense model, on the held-out texts of its tasks.

A few texts of the other tasks and a general text show what it lost elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from seap_export.common.hashing import sha256_json
from seap_export.common.json_file import read_artifact
from seap_export.corpus.answers import AnswerRule
from seap_export.errors import ArtifactError
from seap_export.model.sources.config import end_tokens
from seap_export.model.sources.source import Source
from seap_export.pipeline.evaluation.asked import Scores
from seap_export.pipeline.evaluation.baselines import Baselines
from seap_export.pipeline.evaluation.divergence import divergence_report, divergence_texts, text_sets
from seap_export.pipeline.evaluation.report import TaskOrigin
from seap_export.pipeline.evaluation.request import EvaluationRequest
from seap_export.pipeline.evaluation.subject import Subject, variant_subject
from seap_export.pipeline.evaluation.texts import dense_tokenizer
from seap_export.pipeline.folder.contents import Variant
from seap_export.pipeline.folder.names import QUALITY
from seap_export.pipeline.request.measured import Measured
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.texts.general_text import TextSet, refuse_damaged_cell
from seap_export.runtime.chat import read_chat_template
from seap_export.runtime.files import encode, load_tokenizer
from seap_export.runtime.text import TextStream
from validation.divergence.dense import DenseAnswers
from validation.divergence.measure import continue_prompt
from validation.divergence.paired import PairedText
from validation.estimate import TokenEstimate
from validation.reports.figures import QUALITY as QUALITY_FIGURES

#: Tokens after which a text is cut.
MAX_LENGTH = 256
#: Increased when the same inputs give different bytes than before, so that older reports are not reused.
_VERSION = 9
#: What a report has for each folder that it compares.
_BY_FOLDER = (
    "divergence", "elsewhere", "zero_shot", "generation", "accuracy_retained", "accuracy_retained_stderr",
)  # fmt: skip
#: The sample answer: tokens of the prompt at most, and tokens that follow it, if the model has room for them.
_PROMPT_TOKENS, _ANSWER_TOKENS = 256, 64
#: Held-out prompts of which the first is taken that the dense model answers.
_MOST_PROMPTS = 8


@dataclass(frozen=True)
class QualityRequest:
    """How the quality of variants is measured.

    Attributes:
        threads: Threads of torch and of the runtime; None: all cores.
        general_text: The corpus of the general text; None: the one that comes with the package.
    """

    measured: Measured
    provider: str = "cpu"
    threads: int | None = None
    general_text: Path | None = None
    max_length: int = MAX_LENGTH

    @property
    def evaluation(self) -> EvaluationRequest:
        """The equivalent request of `seap-export evaluate`."""
        runtime = self.measured.runtime
        return EvaluationRequest(
            runtimes=(runtime,),
            folders=((self.measured.folder, runtime),),
            max_length=self.max_length,
            threads=self.threads,
            provider=self.provider,
        )


def quality_request(measured: Measured, settings: ParitySettings, general_text: Path | None) -> QualityRequest:
    """The request with which an export measures quality, from its settings of parity."""
    return QualityRequest(measured, measured.provider(settings.provider), settings.threads, general_text)


@dataclass(frozen=True)
class SamplePrompt:
    """A held-out prompt that both models may answer."""

    dense: tuple[int, ...]
    variant: tuple[int, ...]
    text: str
    task: str


@dataclass(frozen=True)
class QualityWork:
    """The texts and prompts on which one variant is compared with its dense model.

    Attributes:
        answer_tokens: The most tokens of an answer.
    """

    subject: Subject
    held_out_texts: tuple[PairedText, ...]
    elsewhere: Mapping[str, TextSet]
    samples: tuple[SamplePrompt, ...]
    answer_tokens: int
    stops: frozenset[int]
    dense: Tokenizer
    tokenizer: Tokenizer

    @property
    def dense_stops(self) -> frozenset[int]:
        """The token ids of the dense model that end an answer."""
        kept = self.subject.vocabulary
        return self.stops if kept is None else frozenset(kept.kept[token] for token in self.stops)

    @property
    def prompts(self) -> tuple[tuple[int, ...], ...]:
        """The sample prompts as token ids of the dense model."""
        return tuple(sample.dense for sample in self.samples)

    @property
    def texts(self) -> tuple[PairedText, ...]:
        """All texts to compare, held-out and further ones; a text in several sets is repeated."""
        return (*self.held_out_texts, *(pair for text_set in self.elsewhere.values() for pair in text_set.pairs))

    @property
    def distinct(self) -> int:
        """The number of distinct texts, each of which the variant runs once."""
        return len({text.variant for text in self.texts})


def quality_key(folder: str, max_length: int, elsewhere: Mapping[str, Sequence[str]], asked: str = "") -> str:
    """The key of a quality report: one part for its folder and settings, and one for the texts of other tasks.

    Args:
        asked: The digest of the questions; "" if there are none.
    """
    further = {"asked": [asked]} if asked else {}
    texts = sha256_json({**{name: list(of_set) for name, of_set in elsewhere.items()}, **further})
    return f"{folder_quality_key(folder, max_length)}-{texts}"


def folder_quality_key(folder: str, max_length: int) -> str:
    """The first part of `quality_key`: the hash of the measured folder's key and of the length of texts."""
    return sha256_json(["quality", _VERSION, folder, max_length])


def quality_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a quality report that the manifest repeats: divergence, folder, runtime and loss elsewhere.

    The divergence of each text is left out.
    """
    try:
        (figures,) = report["divergence"].values()
        more = {key: report[key] for key in ("folder", "runtime", "elsewhere") if key in report}
        for cell in (cell for by_name in report.get("elsewhere", {}).values() for cell in by_name.values()):
            refuse_damaged_cell(cell)
        for figure in QUALITY_FIGURES:
            figure.cell({"quality": figures})
        if "kl_nats_by_text" in figures:
            TokenEstimate.read(figures)
        return {key: value for key, value in {**figures, **more}.items() if key != "kl_nats_by_text"}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ArtifactError(
            f"{QUALITY}: damaged, or of another version ({error} is missing); export again with --force"
        ) from error


def quality_work(
    source: Source, folder: Path, elsewhere: Mapping[str, Sequence[str]], request: QualityRequest
) -> QualityWork:
    """Collects the texts and prompts on which the variant in a folder is compared."""
    variant, evaluation = Variant(folder), request.evaluation
    subject = variant_subject(variant, source)
    tokenizer = load_tokenizer(subject.artifact(evaluation.tokenizer_folder))
    stops = end_tokens(variant.hf)
    template = read_chat_template(subject.artifact(evaluation.tokenizer_folder), tokenizer)
    if template is not None:
        stops |= template.turn_ends(tokenizer)
    records = [(record.task, sample) for record in subject.records or () for sample in record.held_out]
    with dense_tokenizer(subject, evaluation) as dense_folder:
        dense = tokenizer if dense_folder is None else load_tokenizer(dense_folder)
    context = source.spec.max_position_embeddings
    answer_tokens = min(_ANSWER_TOKENS, context // 2)
    most = min(_PROMPT_TOKENS, context - answer_tokens)
    samples = tuple(islice(_sample_prompts(dense, tokenizer, records, most), _MOST_PROMPTS))
    texts, others = divergence_texts(subject, evaluation), text_sets(subject, evaluation, elsewhere)
    return QualityWork(subject, texts, others, samples, answer_tokens, stops, dense, tokenizer)


def _sample_prompts(
    dense: Tokenizer, tokenizer: Tokenizer, records: Sequence[tuple[str, Mapping[str, str]]], most: int
) -> Iterator[SamplePrompt]:
    """The prompts of held-out samples that have at most `most` tokens, or if none has, the beginnings of all."""
    cut = [(_prompt(dense, one), _prompt(tokenizer, one), one.get("question"), task) for task, one in records]
    short = [sample for sample in cut if max(len(sample[0]), len(sample[1])) <= most]
    for of_dense, of_variant, question, task in short or cut:
        shown = question or dense.decode(of_dense[:most])
        yield SamplePrompt(tuple(of_dense[:most]), tuple(of_variant[:most]), shown, task)


def _prompt(tokenizer: Tokenizer, record: Mapping[str, str]) -> list[int]:
    """The tokens of a sample's prompt, or the first half of a text that is not divided into prompt and completion."""
    ids = encode(tokenizer, record["prompt"] or record["completion"])
    is_divided = record["prompt"] and (record["completion"] or "question" in record)
    return list(ids if is_divided else ids[: max(1, len(ids) // 2)])


def quality_report(
    work: QualityWork,
    answers: DenseAnswers,
    request: QualityRequest,
    scores: Mapping[str, Scores],
    rules: Mapping[str, AnswerRule],
    simple: Mapping[str, Baselines],
    done: Any,
) -> dict[str, Any]:
    """The report of `seap-export evaluate`, and one answer of each model to the same prompt.

    Args:
        scores: How the dense model, as `dense`, and the folder, by its label, answered the questions; empty: there are
            none.
        rules: Where an answer ends, by task; without one, where the model ends it.
        simple: How the questions are answered without a language model, by task.
    """
    measured, subject = request.measured, work.subject
    report = divergence_report(subject, request.evaluation, answers, elsewhere=work.elsewhere, on_progress=done)
    tasks = [name for of in scores.values() for name in (*of.zero_shot, *of.generation)]
    report = replace(
        report,
        tasks={name: TaskOrigin("file", None, True) for name in tasks},
        zero_shot={label: of.zero_shot for label, of in scores.items() if of.zero_shot},
        generation={label: of.generation for label, of in scores.items() if of.generation},
    )
    prompt, dense = answers.answer(work.prompts)
    asked = work.samples[work.prompts.index(prompt)]
    folder, execution = subject.artifact(measured.folder), request.evaluation.execution(None)
    variant = continue_prompt(
        folder, measured.runtime, asked.variant, work.answer_tokens, work.stops, execution=execution
    )
    rule = rules.get(asked.task)
    sample = {
        "prompt": asked.text,
        "dense": _decoded(work.dense, prompt, dense, rule),
        "variant": _decoded(work.tokenizer, asked.variant, variant, rule),
    }
    without = {"baselines": {name: vars(of) for name, of in simple.items()}} if simple else {}
    return {**report.to_json(), **measured.to_json(), **without, "sample": sample}


def _decoded(tokenizer: Tokenizer, prompt: Sequence[int], answer: Sequence[int], rule: AnswerRule | None) -> str:
    """The text of an answer, decoded after its prompt, up to where the task's rule says that it ends."""
    stream = TextStream(tokenizer, prompt)
    text = "".join([*map(stream.add, answer), stream.end()])
    ended = None if rule is None else rule.before_stop(text)
    return text if ended is None else ended


def recorded_quality(variant: Variant) -> dict[str, Any] | None:
    """The quality report that an export left in a variant's folder; None: it measured none.

    The first folder's stands for the variant, as in `divergence_of`; what the others measured is added to it.

    Raises:
        ArtifactError: A report is damaged.
    """
    reports = _reports(variant)
    for report in reports:
        quality_figures(report)  # refuses a report without figures
    if not reports:
        return None
    merged: dict[str, Any] = {
        key: {form: figures for report in reports for form, figures in report[key].items()}
        for key in _BY_FOLDER
        if key in reports[0]
    }
    return {**reports[0], **merged}


def recorded_figures(variant: Variant) -> dict[str, Any] | None:
    """The part of the reports that the manifest repeats: the first one's figures, with the rest under `others`."""
    return repeated_figures(_reports(variant))


def repeated_figures(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The part of the reports on a variant's folders that the manifest repeats; see `recorded_figures`."""
    if not reports:
        return None
    first, *others = map(quality_figures, reports)
    return {**first, **({"others": {of["folder"]: of for of in others}} if others else {})}


def _reports(variant: Variant) -> list[dict[str, Any]]:
    return [read_artifact(folder.quality_file) for folder in variant.formats if folder.quality_file.is_file()]
