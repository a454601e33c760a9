"""The export parity gate: an ONNX graph against the torch model that it was written from.

Torch runs first and is released before the ONNX session opens, so two models are never in memory at once; its
logits wait in a temporary file. The truth for a row of a padded batch is the same prompt run alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from converters.blocks import in_float_activations
from converters.form import read_form
from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.families import ModelSpec, model_spec
from seap_export.runtime.session import available_threads, nodes_by_provider, open_session
from seap_export.sources.config import read_json
from validation.logit_store import LogitStore, StoredLogits
from validation.metrics import LogitComparison
from validation.onnx_runner import OnnxRunner
from validation.profiles import TOLERANCE, Pass, passes
from validation.prompts import BATCH_ROWS, Case, TokenIds, parity_cases, prompt_digests, tokenize_prompts
from validation.report import ParityReport, StageResult
from validation.rounding import round_weights
from validation.torch_runner import open_torch_runner

__all__ = ["run_parity"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Reference:
    """A sequence's greedy continuation, and where its logits are kept."""

    forced: tuple[int, ...]
    prefill: StoredLogits
    decode: StoredLogits


@dataclass(frozen=True)
class _Place:
    """Where a session ran; see `ParityReport`."""

    provider: str
    nodes: dict[str, dict[str, int]] | None
    threads: int

    @classmethod
    def of(cls, session: ort.InferenceSession) -> _Place:
        threads = session.get_session_options().intra_op_num_threads
        return cls(session.get_providers()[0], nodes_by_provider(session), threads)


def run_parity(
    hf_folder: Path,
    onnx_folder: Path,
    prompts: Sequence[str],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    decode_steps: int = 8,
    tolerance: float = TOLERANCE,
    kl_tolerance: float | None = None,
    max_prompt_tokens: int = 128,
    on_progress: Progress | None = None,
) -> ParityReport:
    """Compares every logit of `onnx_folder`/model.onnx with the float32 model in `hf_folder`.

    The graph says in which form it was written. Where its weights are int8 or int4, the reference has the same
    rounded weights, and on the CPU the graph also runs with activations that are not rounded: then nothing but the
    order of sums differs. Limits: see `validation.profiles`.

    Each prompt is run alone, then three of different lengths as a batch padded on the right: the prompt, then
    `decode_steps` tokens one at a time. Both sides are fed the tokens that torch chooses greedily.

    Args:
        hf_folder: config.json, safetensors files and tokenizer.
        onnx_folder: model.onnx and model.onnx.data.
        prompts: At least one; with fewer than three different lengths the batch repeats and cuts them
            (`validation.prompts.parity_cases`).
        provider: "cpu" or "cuda", for ONNX Runtime; torch always runs on the CPU.
        threads: Threads of either; None: all cores this process may use.
        decode_steps: At least 1.
        tolerance: Largest absolute difference of a logit that passes where the graph computes in float32.
        kl_tolerance: Largest mean KL divergence, nats a token, that passes where it computes in less; None: by
            precision.
        max_prompt_tokens: Longer prompts are cut; at least 3, and never more than the model's positions allow.
        on_progress: Called with a line about each sequence or case before it runs.

    Returns:
        The report; a failed comparison is a verdict in it, not an exception.

    Raises:
        UsageError: An argument is out of range.
        InputError: There is no prompt, or one has no tokens.
        ArtifactError: The model folder or the ONNX file cannot be loaded.
        EnvironmentFailure: The execution provider cannot be had, or memory or disk space runs out.
        ParityFailure: The graph does not run at all.
    """
    _check_arguments(decode_steps, tolerance, kl_tolerance, max_prompt_tokens)
    say = on_progress or (lambda line: None)
    threads = threads if threads is not None else available_threads()
    spec, model = _model_spec(hf_folder), onnx_folder / "model.onnx"
    limit = _prompt_limit(spec, decode_steps, max_prompt_tokens)
    sequences = tokenize_prompts(hf_folder, prompts, max_tokens=limit, vocab_size=spec.vocab_size)
    cases, form = parity_cases(sequences), read_form(model)
    with LogitStore() as store:
        prepare = partial(round_weights, spec=spec, precision=form.precision)
        references = _run_torch(hf_folder, prepare, cases, decode_steps, threads, store, say)
        stages: list[StageResult] = []
        for own in passes(form.precision, provider, tolerance, kl_tolerance):
            graph = in_float_activations(model) if own.in_float else None
            session = open_session(model, provider, threads, graph=graph)
            place = _Place.of(session)  # of the last one: of the graph as it is
            runner = OnnxRunner(session)
            for case in cases:
                say(f"onnx: {case.name}{own.suffix}")
                stages += _compare(case, own, references, runner, store)
            del runner, session  # before the next one opens: the weights are in memory once
    return ParityReport(
        stages=tuple(stages),
        form=form,
        provider_asked=provider,
        provider_obtained=place.provider,
        nodes=place.nodes,
        threads=place.threads,
        versions=_versions(),
        decode_steps=decode_steps,
        max_prompt_tokens=limit,
        prompt_sha256=prompt_digests(prompts),
    )


def _check_arguments(decode_steps: int, tolerance: float, kl_tolerance: float | None, max_prompt_tokens: int) -> None:
    if decode_steps < 1:
        raise UsageError(f"parity needs at least one decode step, not {decode_steps}")
    for limit in (tolerance, kl_tolerance):
        if limit is not None and not 0 < limit < float("inf"):
            raise UsageError(f"a tolerance must be a positive number, not {limit}")
    if max_prompt_tokens < BATCH_ROWS:
        raise UsageError(f"prompts need at least {BATCH_ROWS} tokens, not {max_prompt_tokens}")


def _model_spec(folder: Path) -> ModelSpec:
    try:
        return model_spec(read_json(folder / "config.json"))
    except InputError as error:
        raise ArtifactError(str(error)) from error


def _prompt_limit(spec: ModelSpec, decode_steps: int, max_prompt_tokens: int) -> int:
    """Prompt tokens such that the last decode step is still a position the model knows."""
    limit = min(max_prompt_tokens, spec.max_position_embeddings - decode_steps)
    if limit < BATCH_ROWS:
        raise UsageError(
            f"{decode_steps} decode steps leave too few of the model's {spec.max_position_embeddings} positions"
        )
    return limit


def _run_torch(
    folder: Path,
    prepare: Callable[[Any], None],
    cases: Sequence[Case],
    steps: int,
    threads: int,
    store: LogitStore,
    say: Progress,
) -> dict[TokenIds, _Reference]:
    """The reference of every different row, once the model is prepared; it is gone when this returns."""
    rows = list(dict.fromkeys(row for case in cases for row in case.rows))
    references: dict[TokenIds, _Reference] = {}
    with open_torch_runner(folder, threads, prepare) as runner:
        for index, row in enumerate(rows):
            say(f"torch: sequence {index + 1} of {len(rows)}")
            run = runner.run(row, steps)
            references[row] = _Reference(run.forced, store.put(run.prefill), store.put(run.decode))
    return references


def _compare(
    case: Case, own: Pass, references: dict[TokenIds, _Reference], runner: OnnxRunner, store: LogitStore
) -> tuple[StageResult, StageResult]:
    truths = [references[row] for row in case.rows]
    prefill, decode = LogitComparison(), LogitComparison()
    lengths = [len(row) for row in case.rows]
    logits = runner.prefill(_padded(case.rows), lengths)
    for row, (truth, length) in enumerate(zip(truths, lengths, strict=True)):
        first = length - 1 if runner.gives_last_only else 0
        found = logits[row] if runner.gives_last_only else logits[row, :length]
        prefill.update(store.get(truth.prefill)[first:], found, row=row, first_position=first)
    expected = [store.get(truth.decode) for truth in truths]
    for step, next_ids in enumerate(zip(*(truth.forced for truth in truths), strict=True)):
        logits = runner.step(next_ids)
        for row in range(len(truths)):
            decode.update(expected[row][step : step + 1], logits[row : row + 1], row=row, first_position=step)
    name, rows = f"{case.name}{own.suffix}", len(case.rows)
    return (
        StageResult(name, "prefill", rows, prefill.figures(), own.limit),
        StageResult(name, "decode", rows, decode.figures(), own.limit),
    )


def _padded(rows: Sequence[TokenIds]) -> np.ndarray:
    """int64 [B, longest], padded on the right with token 0, which the mask hides."""
    padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded


def _versions() -> dict[str, str]:
    import onnxruntime
    import torch
    import transformers

    return {
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
