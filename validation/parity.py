"""The export parity gate: an ONNX graph against the torch model that it was written from.

Torch runs first and is released before the ONNX session opens, so two models are never in memory at once; its
logits wait in a temporary file. The truth for a row of a padded batch is the same prompt run alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import or_
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from converters.blocks import in_float_activations
from converters.form import read_form
from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.families import ModelSpec, model_spec
from seap_export.runtime.session import available_threads, nodes_by_provider, open_session
from seap_export.sources.config import read_json
from validation.array_store import ArrayStore
from validation.caches import CacheComparison, CacheFigures
from validation.metrics import CLEAR_MARGIN, LogitComparison, LogitFigures
from validation.onnx_runner import OnnxRunner
from validation.profiles import Limits, Pass, passes
from validation.prompts import BATCH_ROWS, Case, TokenIds, parity_cases, prompt_digests, tokenize_prompts
from validation.references import References, run_references
from validation.report import ParityReport, Stage, StageResult
from validation.rounding import round_weights
from validation.torch_runner import open_torch_runner

__all__ = ["DECODE_STEPS", "LONG_TOKENS", "plan_cases", "run_parity"]

Progress = Callable[[str], None]
_DEFAULT = Limits()
#: Of the long prompt, whose attention takes the square of its tokens, and of the others.
LONG_TOKENS, MAX_PROMPT_TOKENS = 2048, 128
DECODE_STEPS = 16


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
    decode_steps: int = DECODE_STEPS,
    limits: Limits = _DEFAULT,
    max_prompt_tokens: int = MAX_PROMPT_TOKENS,
    long_tokens: int = LONG_TOKENS,
    on_progress: Progress | None = None,
) -> ParityReport:
    """Compares every logit of `onnx_folder`/model.onnx with the float32 model in `hf_folder`, and the caches.

    The graph says in which form it was written. Where its weights are int8 or int4, the reference has the same
    rounded weights, and on the CPU the graph also runs with activations that are not rounded: then nothing but the
    order of sums differs. Limits: see `validation.profiles`; cases: `validation.prompts.parity_cases`.

    Each case is a prompt, or several, and then `decode_steps` tokens one at a time. Both sides are fed the tokens that
    torch chooses greedily. After the last, all keys and values are compared.

    Args:
        hf_folder: config.json, safetensors files and tokenizer.
        onnx_folder: model.onnx and model.onnx.data.
        prompts: At least one; with fewer than three different lengths the batch repeats and cuts them.
        provider: "cpu" or "cuda", for ONNX Runtime; torch always runs on the CPU.
        threads: Threads of either; None: all cores this process may use.
        decode_steps: At least 1.
        limits: What passes.
        max_prompt_tokens: Longer prompts are cut; at least 3, and never more than the model's positions allow.
        long_tokens: Positions that the long prompt reaches with its decode steps, as far as the model's go.
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
    say = on_progress or (lambda line: None)
    threads = threads if threads is not None else available_threads()
    spec, model = _model_spec(hf_folder), onnx_folder / "model.onnx"
    limit = _prompt_limit(spec, decode_steps, max_prompt_tokens)
    cases = plan_cases(
        hf_folder, prompts, decode_steps=decode_steps, max_prompt_tokens=max_prompt_tokens, long_tokens=long_tokens
    )
    form = read_form(model)
    with ArrayStore() as store:
        prepare = partial(round_weights, spec=spec, precision=form.precision)
        with open_torch_runner(hf_folder, threads, prepare) as torch_runner:
            references = run_references(torch_runner, cases, decode_steps, store, spec, form.precision, provider, say)
        noise = reduce(or_, (reference.noise for reference in references.all()))
        margin = max(CLEAR_MARGIN, 2 * max(reference.rounded_max_abs for reference in references.all()))
        stages: list[StageResult] = []
        for own in passes(form.precision, provider, limits):
            graph = in_float_activations(model) if own.in_float else None
            session = open_session(model, provider, threads, graph=graph)
            place = _Place.of(session)  # of the last one: of the graph as it is
            runner = OnnxRunner(session)
            for case in cases:
                say(f"onnx: {case.name}{own.suffix}")
                stages += _compare(case, own, references, runner, store, margin)
            # The fused attention would compute it wrongly without a word.
            is_unguarded = form.dialect == "fused" and runner.takes_left_padding()
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
        longest_tokens=max(len(row) for case in cases for row in case.rows) + decode_steps,
        context_length=spec.max_position_embeddings,
        noise_kl=noise.mean_kl or None,
        looser_limits=limits.looser(form.precision.name),
        is_unguarded=is_unguarded,
    )


def plan_cases(
    hf_folder: Path,
    prompts: Sequence[str],
    *,
    decode_steps: int = DECODE_STEPS,
    max_prompt_tokens: int = MAX_PROMPT_TOKENS,
    long_tokens: int = LONG_TOKENS,
) -> tuple[Case, ...]:
    """The cases that `run_parity` runs for these arguments, which are its own, as are the errors."""
    _check_arguments(decode_steps, max_prompt_tokens, long_tokens)
    spec = _model_spec(hf_folder)
    limit = _prompt_limit(spec, decode_steps, max_prompt_tokens)
    longest = max(limit, min(long_tokens, spec.max_position_embeddings) - decode_steps)
    sequences = tokenize_prompts(hf_folder, prompts, max_tokens=limit, vocab_size=spec.vocab_size)
    return parity_cases(sequences, vocab_size=spec.vocab_size, long_tokens=longest)


def _check_arguments(decode_steps: int, max_prompt_tokens: int, long_tokens: int) -> None:
    if decode_steps < 1:
        raise UsageError(f"parity needs at least one decode step, not {decode_steps}")
    if max_prompt_tokens < BATCH_ROWS or long_tokens < 1:
        raise UsageError(f"prompts need at least {BATCH_ROWS} tokens, not {min(max_prompt_tokens, long_tokens)}")


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


def _compare(
    case: Case,
    own: Pass,
    references: References,
    runner: OnnxRunner,
    store: ArrayStore,
    margin: float,
) -> tuple[StageResult, StageResult]:
    truths = references.of(case)
    prefill, decode, caches = LogitComparison(margin), LogitComparison(margin), CacheComparison()
    last = _last_call(case, runner)
    for row, (truth, ids) in enumerate(zip(truths, case.rows, strict=True)):
        wanted = store.get(truth.prefill)
        count = 1 if runner.gives_last_only else len(wanted)
        found = last[row] if runner.gives_last_only else last[row, : len(ids)][-count:]
        first = len(ids) - count
        following = (*ids[first + 1 :], *truth.forced[:1])
        prefill.update(wanted[-count:], found, row=row, first_position=first, following=following)
    expected = [store.get(truth.decode) for truth in truths]
    for step, next_ids in enumerate(zip(*(truth.forced for truth in truths), strict=True)):
        logits = runner.step(next_ids)
        for row, truth in enumerate(truths):
            following = truth.forced[step + 1 : step + 2]
            block = slice(step, step + 1)
            decode.update(
                expected[row][block], logits[row : row + 1], row=row, first_position=step, following=following
            )
    for row, truth in enumerate(truths):
        kept = ((store.get(key), store.get(value)) for key, value in truth.cache)
        caches.update(kept, runner.cache(row), row)
    name, rows = f"{case.name}{own.suffix}", len(case.rows)
    noise = reduce(or_, (truth.noise for truth in truths))

    def result(stage: Stage, logits: LogitFigures, cache: CacheFigures | None = None) -> StageResult:
        limits = own.limits_for(noise, max(logits.tokens, 1))
        return StageResult(name, stage, rows, logits, limits, noise, cache)

    return result("prefill", prefill.figures()), result("decode", decode.figures(), caches.figures())


def _last_call(case: Case, runner: OnnxRunner) -> NDArray[np.floating]:
    """The logits of the prompts' only call, or of the last one of a prompt that is run in several."""
    if case.call_tokens is None:
        return runner.prefill(_padded(case.rows), [len(row) for row in case.rows])
    first, *others = (np.array([part], np.int64) for part in case.calls)
    logits = runner.prefill(first, [first.shape[1]])
    for part in others:
        logits = runner.append(part)
    return logits


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
