"""The quality step of an export: compares each variant with the dense model on the held-out texts of its tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.pipeline.evaluate import divergence_report, divergence_texts
from seap_export.pipeline.evaluation_request import EvaluationRequest
from seap_export.pipeline.evaluation_subject import Subject, variant_subject
from seap_export.pipeline.keys import quality_key
from seap_export.pipeline.manifest import read_artifact
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.workspace import Workspace
from seap_export.runtime.files import load_tokenizer, model_limits
from seap_export.sources.source import Source
from validation.quality import DenseAnswers, continue_prompts

__all__ = [
    "DENSE_TEXTS",
    "QUALITY",
    "QualityRequest",
    "measure_quality",
    "quality_figures",
    "recorded_quality",
    "settled_quality",
]

QUALITY = "quality.json"
#: The name of the step that runs the dense model.
DENSE_TEXTS = "dense texts"
#: The sample answer: tokens of the prompt at most, and tokens that follow it.
_PROMPT_TOKENS, _ANSWER_TOKENS = 128, 32
_FIGURES = ("mean_kl_nats", "top1_agreement", "perplexity", "dense_perplexity", "tokens")


@dataclass(frozen=True)
class QualityRequest:
    """How the quality of variants is measured.

    Attributes:
        provider: ONNX Runtime's execution provider.
        threads: Threads of torch and ONNX Runtime; None: all cores.
        max_length: Tokens after which a text is cut.
    """

    provider: str = "cpu"
    threads: int | None = None
    max_length: int = 256


@dataclass(frozen=True)
class _Work:
    """What is compared for one variant."""

    subject: Subject
    texts: tuple[tuple[int, ...], ...]
    prompt: tuple[int, ...]


def quality_figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a quality report that the manifest repeats; of the ONNX file."""
    return {key: report["divergence"]["onnx"][key] for key in _FIGURES}


def measure_quality(
    source: Source,
    dense: Path,
    variants: Mapping[str, str],
    request: QualityRequest,
    workspace: Workspace,
    progress: Progress,
) -> None:
    """Writes quality.json for every variant that has none yet, and records its figures in the manifest.

    The dense model runs once, over the texts of all these variants, and is released before a variant is opened.

    Args:
        source: The dense model.
        dense: Its files, as a folder that transformers loads.
        variants: The keys of the variants' ONNX files, by name.
        request: How to measure.
        workspace: The output folder, locked.
        progress: Reports what happens.

    Raises:
        ArtifactError: A variant's logits are NaN or infinite.
        EnvironmentFailure: The temporary folder is full.
    """
    keys = {name: quality_key(key, request.max_length) for name, key in variants.items()}
    missing = [name for name in variants if not workspace.is_done(_step(name), keys[name])]
    works = {name: _work(source, workspace.folder / name, request) for name in missing}
    with DenseAnswers(dense, request.threads) as answers:
        if works:
            texts = [ids for work in works.values() for ids in work.texts]
            label = "running the dense model on held-out texts"
            with progress.step(label, len(set(texts)), "texts", name=DENSE_TEXTS) as done:
                answers.run(texts, [work.prompt for work in works.values()], _ANSWER_TOKENS, done)
        for name, work in works.items():
            label = f"{name}: comparing with the dense model"
            with progress.step(label, len(work.texts), "texts", name=_step(name)) as done:
                report = _report(work, answers, request, done)
            with workspace.writing(_step(name), keys[name], folder=False) as path:
                path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8", newline="\n")


def settled_quality(workspace: Workspace, name: str, key: str) -> dict[str, Any] | None:
    """The quality figures of a variant for the manifest; None if none were measured.

    A report of an earlier ONNX file, which --force has replaced, is removed.

    Args:
        workspace: The output folder, locked.
        name: The variant.
        key: The key of its ONNX file.
    """
    step, manifest = _step(name), workspace.manifest
    if manifest.steps.get(step) == quality_key(key, QualityRequest().max_length):
        return quality_figures(read_artifact(workspace.folder / step))
    manifest.forget(step)
    (workspace.folder / step).unlink(missing_ok=True)
    return None


def _step(name: str) -> str:
    return f"{name}/{QUALITY}"


def _work(source: Source, folder: Path, request: QualityRequest) -> _Work:
    subject = variant_subject(folder, source)
    evaluation = _evaluation(request)
    sample = next(sample for record in subject.records or () for sample in record.held_out)
    tokenizer = load_tokenizer(folder / "onnx")
    ids = tuple(tokenizer.encode(sample["prompt"] or sample["completion"]).ids[:_PROMPT_TOKENS])
    prompt = ids if sample["prompt"] else ids[: max(1, len(ids) // 2)]
    return _Work(subject, divergence_texts(subject, evaluation), prompt)


def _evaluation(request: QualityRequest) -> EvaluationRequest:
    return EvaluationRequest(("onnx",), max_length=request.max_length, threads=request.threads)


def _report(work: _Work, answers: DenseAnswers, request: QualityRequest, done: Any) -> dict[str, Any]:
    """The report of `seap-export evaluate`, and one answer of each model to the same prompt."""
    options: Any = {"provider": request.provider, "threads": request.threads}
    report = divergence_report(
        work.subject, _evaluation(request), answers, provider=request.provider, on_progress=done
    )
    folder = work.subject.artifact("onnx")
    (variant,) = continue_prompts(folder, [work.prompt], _ANSWER_TOKENS, **options)
    dense = answers.continuation(work.prompt, _ANSWER_TOKENS)
    return {**report.to_json(), "sample": _sample(folder, work.prompt, dense, variant)}


def _sample(folder: Path, prompt: Sequence[int], dense: Sequence[int], variant: Sequence[int]) -> dict[str, str]:
    tokenizer, (eos, _) = load_tokenizer(folder), model_limits(folder / "genai_config.json")

    def text(following: Sequence[int]) -> str:
        """What follows the prompt, up to an end-of-sequence token."""
        end = next((at for at, token in enumerate(following) if token in eos), len(following))
        whole: str = tokenizer.decode([*prompt, *following[:end]])
        return whole.removeprefix(tokenizer.decode(list(prompt)))

    return {"prompt": tokenizer.decode(list(prompt)), "dense": text(dense), "variant": text(variant)}


def recorded_quality(folder: Path) -> dict[str, Any] | None:
    """The quality report that an export left in a variant's folder; None: it measured none."""
    path = folder / QUALITY
    return read_artifact(path) if path.is_file() else None
