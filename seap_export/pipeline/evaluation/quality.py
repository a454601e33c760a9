"""The quality step of an export: compares each variant with the dense model on the held-out texts of its tasks.

A few texts of the other tasks and a general text show what it lost elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from seap_export.activations.statistics import Calibration, CalibrationRecord
from seap_export.errors import ArtifactError
from seap_export.hashing import sha256_json
from seap_export.json_file import read_artifact, write_json
from seap_export.layers.compute import Compute
from seap_export.pipeline.evaluation.evaluate import divergence_report, divergence_texts, text_sets
from seap_export.pipeline.evaluation.request import EvaluationRequest
from seap_export.pipeline.evaluation.subject import Subject, variant_subject
from seap_export.pipeline.evaluation.texts import dense_tokenizer
from seap_export.pipeline.folder.contents import Variant
from seap_export.pipeline.folder.names import ONNX, QUALITY, calibration_step
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.request.measured import Measured
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.texts.general_text import TextSet, elsewhere_texts, refuse_damaged_cell
from seap_export.runtime.files import load_tokenizer, model_limits
from seap_export.sources.config import end_tokens
from seap_export.sources.source import Source
from validation.divergence.measure import DenseAnswers, claim_texts, continue_prompt
from validation.divergence.paired import PairedText

__all__ = [
    "DENSE_TEXTS",
    "MAX_LENGTH",
    "QualityRequest",
    "folder_quality_key",
    "measure_quality",
    "quality_figures",
    "quality_key",
    "quality_request",
    "recorded_quality",
    "settled_quality",
]

#: Tokens after which a text is cut.
MAX_LENGTH = 256
#: Increased when the same inputs give different bytes than before, so that older reports are not reused.
_VERSION = 5
#: The name of the step that runs the dense model.
DENSE_TEXTS = "dense texts"
#: The sample answer: tokens of the prompt at most, and tokens that follow it.
_PROMPT_TOKENS, _ANSWER_TOKENS = 128, 32
#: Held-out prompts of which the first is taken that the dense model answers.
_MOST_PROMPTS = 8
_FIGURES = ("mean_kl_nats", "top1_agreement", "perplexity", "dense_perplexity", "tokens")


@dataclass(frozen=True)
class QualityRequest:
    """How the quality of variants is measured.

    Attributes:
        measured: What is measured of each.
        provider: ONNX Runtime's execution provider.
        threads: Threads of torch and of the runtime; None: all cores.
        general_text: The corpus of the general text; None: the one that comes with the package.
        max_length: Tokens after which a text is cut.
    """

    measured: Measured
    provider: str = "cpu"
    threads: int | None = None
    general_text: Path | None = None
    max_length: int = MAX_LENGTH

    @property
    def evaluation(self) -> EvaluationRequest:
        """The same as a request of `seap-export evaluate`."""
        return EvaluationRequest(
            runtimes=(self.measured.runtime,),
            max_length=self.max_length,
            threads=self.threads,
            provider=self.provider,
        )


def quality_request(measured: Measured, settings: ParitySettings, general_text: Path | None) -> QualityRequest:
    """How an export measures quality."""
    provider = settings.provider if measured.is_onnx else "cpu"
    return QualityRequest(measured, provider, settings.threads, general_text)


@dataclass(frozen=True)
class _Work:
    """What is compared for one variant.

    Attributes:
        subject: The variant and its dense model.
        held_out_texts: The held-out texts of its tasks, as the tokens of both.
        elsewhere: Texts of every task, and the general text.
        prompts: Prompts of which one is continued, as tokens of the dense model.
        variant_prompts: The same as the variant's tokens.
        stops: The variant's tokens that end an answer.
        dense: The dense model's tokenizer.
        tokenizer: The variant's.
    """

    subject: Subject
    held_out_texts: tuple[PairedText, ...]
    elsewhere: Mapping[str, TextSet]
    prompts: tuple[tuple[int, ...], ...]
    variant_prompts: tuple[tuple[int, ...], ...]
    stops: frozenset[int]
    dense: Tokenizer
    tokenizer: Tokenizer

    @property
    def dense_stops(self) -> frozenset[int]:
        """The same as the dense model's tokens."""
        kept = self.subject.vocabulary
        return self.stops if kept is None else frozenset(kept.kept[token] for token in self.stops)

    @property
    def texts(self) -> tuple[PairedText, ...]:
        """All texts, each as often as a set has it."""
        return (*self.held_out_texts, *(pair for text_set in self.elsewhere.values() for pair in text_set.pairs))

    @property
    def distinct(self) -> int:
        """How many texts the variant runs."""
        return len({text.variant for text in self.texts})


def quality_key(folder: str, max_length: int, elsewhere: Mapping[str, Sequence[str]]) -> str:
    """The key of a quality report: one part for what it belongs to, and one for the texts of other tasks.

    Args:
        folder: The key of the folder that is measured, which stands for the variant's held-out texts and its dense
            model, too, and for the runtime.
        max_length: Tokens after which a text is cut.
        elsewhere: The texts of all tasks and the general text.
    """
    texts = sha256_json({name: list(of_set) for name, of_set in elsewhere.items()})
    return f"{folder_quality_key(folder, max_length)}-{texts}"


def folder_quality_key(folder: str, max_length: int) -> str:
    """The first part of `quality_key`."""
    return sha256_json(["quality", _VERSION, folder, max_length])


def quality_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures that the manifest repeats from a quality report, with what they belong to.

    Raises:
        ArtifactError: The report lacks one of them.
    """
    try:
        (figures,) = report["divergence"].values()
        more = {key: report[key] for key in ("folder", "runtime", "elsewhere") if key in report}
        for cell in (cell for by_name in report.get("elsewhere", {}).values() for cell in by_name.values()):
            refuse_damaged_cell(cell)
        return {**{key: figures[key] for key in _FIGURES}, **more}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ArtifactError(f"{QUALITY}: damaged ({error} is missing); export again with --force") from error


def measure_quality(
    source: Source,
    dense: Callable[[], Path],
    variants: Mapping[str, str],
    request: QualityRequest,
    workspace: Workspace,
    compute: Compute,
    progress: Progress,
) -> None:
    """Writes quality.json for every variant that has none yet.

    The dense model runs once, over the texts of all these variants, and is released before a variant is opened.

    Args:
        source: The dense model.
        dense: Returns its files as a folder that transformers loads; called if there is something to measure.
        variants: The keys of what is measured of each variant, by name.
        request: How to measure.
        workspace: The output folder, locked.
        compute: Where torch runs.
        progress: Reports what happens.

    Raises:
        ArtifactError: A variant's logits are NaN or infinite.
        InputError: The general text cannot be used.
        EnvironmentFailure: The temporary folder is full.
    """
    elsewhere = elsewhere_texts(_records(workspace), request.general_text)
    keys = {name: quality_key(key, request.max_length, elsewhere) for name, key in variants.items()}
    for name, key in keys.items():
        if workspace.manifest.steps.get(_step(name), key) != key:
            _forget(workspace, name)  # it belongs to another folder, or lacks a task
    missing = [name for name in variants if not workspace.is_done(_step(name), keys[name])]
    works = {name: _work(source, workspace.folder / name, elsewhere, request) for name in missing}
    for name, work in list(works.items()):
        if not any(min(len(text.dense), len(text.variant)) > 1 for text in work.held_out_texts):
            progress.warn(f"{name}: its held-out texts are too short to measure quality")
            del works[name]
    if not works:
        return
    execution = request.evaluation.execution(compute)
    with DenseAnswers(dense(), execution) as answers:
        texts = tuple(dict.fromkeys(text.dense for work in works.values() for text in work.texts))
        for name, work in works.items() if request.measured.is_onnx else ():
            claim_texts(workspace.folder / name / ONNX, [text.variant for text in work.texts], execution, progress.say)
        label = "running the dense model on held-out texts"
        with progress.step(label, len(texts), "texts", name=DENSE_TEXTS) as done:
            stops = frozenset().union(*(work.dense_stops for work in works.values()))
            answers.run(texts, [work.prompts for work in works.values()], _ANSWER_TOKENS, stops, done)
        for name, work in works.items():
            label = f"{name}: comparing with the dense model"
            with progress.step(label, work.distinct, "texts", name=_step(name)) as done:
                report = _report(work, answers, request, done)
            with workspace.writing(_step(name), keys[name], folder=False) as path:
                write_json(path, report)


def _records(workspace: Workspace) -> list[CalibrationRecord]:
    """What the tasks of the output folder were calibrated on; an earlier task whose statistics are gone has none."""
    records = []
    for task in workspace.manifest.tasks:
        with suppress(ArtifactError):
            records.append(Calibration(workspace.folder / calibration_step(task)).record)
    return records


def settled_quality(workspace: Workspace, name: str) -> dict[str, Any] | None:
    """The quality figures of a variant for the manifest; None if none were measured.

    A report of earlier files, which --force has replaced, is removed.

    Args:
        workspace: The output folder, locked.
        name: The variant.

    Raises:
        ArtifactError: The report was changed since, and there is no --force.
    """
    step, manifest = _step(name), workspace.manifest
    if step not in manifest.steps:
        return None
    key = manifest.steps[step]
    known = [known_key for other, known_key in manifest.steps.items() if other.startswith(f"{name}/")]
    is_of_folder = key.partition("-")[0] in (folder_quality_key(known_key, MAX_LENGTH) for known_key in known)
    if is_of_folder and workspace.is_done(step, key):
        return quality_figures(read_artifact(workspace.folder / step))
    _forget(workspace, name)
    return None


def _forget(workspace: Workspace, name: str) -> None:
    workspace.manifest.forget(_step(name))
    (workspace.folder / _step(name)).unlink(missing_ok=True)


def _step(name: str) -> str:
    return f"{name}/{QUALITY}"


def _work(source: Source, folder: Path, elsewhere: Mapping[str, Sequence[str]], request: QualityRequest) -> _Work:
    variant, evaluation = Variant(folder), request.evaluation
    subject = variant_subject(variant, source)
    tokenizer = load_tokenizer(subject.artifact(evaluation.tokenizer_folder))
    if request.measured.is_onnx:
        stops, _ = model_limits(variant.onnx / "genai_config.json")
    else:
        stops = end_tokens(variant.hf)
    samples = [sample for record in subject.records or () for sample in record.held_out]
    with dense_tokenizer(subject, evaluation) as dense_folder:
        dense = tokenizer if dense_folder is None else load_tokenizer(dense_folder)
    prompts, variant_prompts = (
        tuple(_prompt(cut, sample) for sample in samples[:_MOST_PROMPTS]) for cut in (dense, tokenizer)
    )
    texts, others = divergence_texts(subject, evaluation), text_sets(subject, evaluation, elsewhere)
    return _Work(subject, texts, others, prompts, variant_prompts, stops, dense, tokenizer)


def _prompt(tokenizer: Tokenizer, sample: Mapping[str, str]) -> tuple[int, ...]:
    """The tokens of a sample's prompt, or the first half of a text that is not divided into prompt and completion."""
    ids = tuple(tokenizer.encode(sample["prompt"] or sample["completion"]).ids[:_PROMPT_TOKENS])
    return ids if sample["prompt"] and sample["completion"] else ids[: max(1, len(ids) // 2)]


def _report(work: _Work, answers: DenseAnswers, request: QualityRequest, done: Any) -> dict[str, Any]:
    """The report of `seap-export evaluate`, and one answer of each model to the same prompt."""
    measured, subject = request.measured, work.subject
    report = divergence_report(subject, request.evaluation, answers, elsewhere=work.elsewhere, on_progress=done)
    prompt, dense = answers.answer(work.prompts)
    variant_prompt = work.variant_prompts[work.prompts.index(prompt)]
    folder, execution = subject.artifact(measured.folder), request.evaluation.execution(None)
    variant = continue_prompt(
        folder, measured.runtime, variant_prompt, _ANSWER_TOKENS, work.stops, execution=execution
    )
    before: str = work.dense.decode(list(prompt))
    sample = {
        "dense": work.dense.decode([*prompt, *dense]).removeprefix(before),
        "variant": work.tokenizer.decode([*variant_prompt, *variant]).removeprefix(
            work.tokenizer.decode(list(variant_prompt))
        ),
    }
    return {**report.to_json(), **measured.to_json(), "sample": {"prompt": before, **sample}}


def recorded_quality(variant: Variant) -> dict[str, Any] | None:
    """The quality report that an export left in a variant's folder; None: it measured none.

    Raises:
        ArtifactError: The report is damaged.
    """
    if not variant.quality_file.is_file():
        return None
    report = read_artifact(variant.quality_file)
    quality_figures(report)  # refuses a report without figures
    return report
