"""The export parity gate: a written folder in a runtime against the torch model that it was written from.

Torch runs first, a layer at a time, and is closed before the runtime opens; its logits and caches wait in a
temporary file. The truth for a row of a padded batch is the same prompt run alone. Torch opens again only if a figure
exceeds its default limit, to measure whether its own noise explains that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.model.families import ModelSpec
from seap_export.model.sources.config import read_spec
from validation.array_store import ArrayStore
from validation.execution import Execution, Say
from validation.metrics import CLEAR_MARGIN
from validation.parity.answers import Answers
from validation.parity.candidates.candidate import ParityInput, RuntimeCandidate, open_candidate
from validation.parity.compared import Compared, compare
from validation.parity.filled import filled_cases
from validation.parity.origin import Origin, compare_with_origin
from validation.parity.profiles import Limits, Noise
from validation.parity.references import Reference, TokenSequence, measure_exact_noise, run_references, sequences_of
from validation.parity.report import ComparedFolder, ParityReport
from validation.prompts import BATCH_ROWS, Case, parity_cases, prompt_digests, tokenize_prompts
from validation.runtimes.table import require_runtime, runtime_title
from validation.texts.compare import runtime_figures
from validation.texts.model import ModelTexts

_DEFAULT = Limits()
#: Tokens of the long prompt, whose attention grows with their square, and of the other prompts.
LONG_TOKENS, MAX_PROMPT_TOKENS = 2048, 128
DECODE_STEPS = 16


def run_parity(
    hf_folder: Path,
    folder: Path,
    prompts: Sequence[str],
    *,
    origin: Origin | None = None,
    runtime: str = "onnxruntime",
    execution: Execution = Execution(),  # noqa: B008 - frozen
    decode_steps: int = DECODE_STEPS,
    limits: Limits = _DEFAULT,
    long_tokens: int = LONG_TOKENS,
    on_progress: Say | None = None,
    on_memory: Say | None = None,
) -> ParityReport:
    """Compares the logits and caches of a written folder in a runtime with those of the float32 model in `hf_folder`.

    Torch computes with the weights that the format stores, so that only the arithmetic differs.
    `converters.comparison` says whether they are the model's. See `RuntimeCandidate`, and `OnnxCandidate` for
    ONNX. Limits: see `validation.parity.profiles`; cases: `validation.prompts.parity_cases`.

    Each case is a prompt, or several, and then `decode_steps` tokens one at a time, the same on both sides. After the
    last one, all keys and values are compared, if the runtime shows them.

    Args:
        hf_folder: config.json, safetensors files and tokenizer.
        folder: The folder that was written from the model.
        prompts: At least one; with fewer than three different lengths the batch repeats and cuts them.
        origin: What the model was rounded from, on which its predictions are compared, too; None: it was not rounded.
        runtime: Name of the runtime that runs the folder.
        execution: Provider, threads and memory of both sides.
        decode_steps: At least 1.
        long_tokens: Positions that the long prompt reaches with its decode steps, as far as the model's go.
        on_progress: Called with a line about each layer of torch, and each case before it runs.
        on_memory: Called with a line about the memory that ONNX Runtime will take; None: `on_progress` is.

    Returns:
        The report; a failed comparison is a verdict in it, not an exception.

    Raises:
        UsageError: An argument is out of range.
        InputError: There is no prompt, or one has no tokens.
        ArtifactError: The model folder or the written one cannot be loaded.
        EnvironmentFailure: The runtime or its provider is not available, or memory or disk space runs out.
        ParityFailure: The model does not run at all.
    """
    say = on_progress or (lambda line: None)
    execution = replace(execution, compute=execution.torch_compute)  # what is free now, not at a later opening
    require_runtime(runtime)
    spec = _model_spec(hf_folder)
    cases = plan_cases(hf_folder, prompts, decode_steps=decode_steps, long_tokens=long_tokens)
    # opened before the references, which take long
    candidate = open_candidate(runtime, ParityInput(folder, spec, execution, say))
    if candidate.context_length < min(long_tokens, spec.max_position_embeddings):
        cases = plan_cases(hf_folder, prompts, decode_steps=decode_steps, long_tokens=candidate.context_length)
    longest = max(len(row) for case in cases for row in case.rows) + decode_steps
    context = min(candidate.context_length, spec.max_position_embeddings)
    filled, uncrossed = filled_cases(cases, spec, context, None if candidate.fills else runtime_title(runtime))
    cases = (*cases, *filled)
    candidate.claim(cases, on_memory or say)
    model = ModelTexts(hf_folder)
    texts = runtime_figures(model, runtime, folder, prompts)
    with ArrayStore() as store:
        answers = candidate.answers(next(case for case in cases if len(case.rows) > 1), model)
        cases = tuple(answers.case if case.name == answers.case.name else case for case in cases)
        with candidate.torch(hf_folder) as torch_runner:
            references = run_references(torch_runner, cases, store, spec, say)
        compared, complaints = _compare_all(candidate, cases, answers, limits, references, store, spec, say)
        alone = [sequence for case in cases if not (case.in_float or case.filled) for sequence in sequences_of(case)]
        rounding = None if origin is None else compare_with_origin(origin, execution, alone, references, store, say)
        noise, margin = _noise(compared, references, store, hf_folder, candidate, say)
    return ParityReport(
        stages=tuple(stage for comparison in compared for stage in comparison.results(noise, margin)),
        subject=ComparedFolder(
            candidate.format.name, runtime, candidate.format.precision, candidate.arithmetic.name, candidate.form()
        ),
        provider_asked=execution.provider,
        conditions=candidate.conditions(),
        versions=_versions() | candidate.versions(),
        decode_steps=decode_steps,
        max_prompt_tokens=_prompt_limit(spec, decode_steps),
        prompt_sha256=prompt_digests(prompts),
        longest_tokens=longest,
        context_length=spec.max_position_embeddings,
        noise_kl=max((of_sequence.mean_kl for of_sequence in noise.values()), default=0.0) or None,
        looser_limits=limits.looser(candidate.arithmetic.name),
        rounding=rounding,
        texts=texts,
        complaints=(*answers.complaints, *complaints),
        remarks=(*answers.remarks, *uncrossed),
    )


def _compare_all(
    candidate: RuntimeCandidate,
    cases: Sequence[Case],
    answers: Answers,
    limits: Limits,
    references: Mapping[TokenSequence, Reference],
    store: ArrayStore,
    spec: ModelSpec,
    say: Say,
) -> tuple[list[Compared], list[str]]:
    """Every case in each of the candidate's passes and as it is served, and what is wrong with its answers."""
    compared: list[Compared] = []
    for way in candidate.passes(limits):
        with candidate.opened(way) as runner:
            for case in filter(way.takes, cases):
                say(f"{candidate.format.name}: {case.name}{way.suffix}")
                compared.append(compare(case, way, references, runner, store, spec))
    served, complaints = candidate.served(cases, way, answers, references, store)
    return [*compared, *served], complaints


def _noise(
    compared: Sequence[Compared],
    references: Mapping[TokenSequence, Reference],
    store: ArrayStore,
    model_folder: Path,
    candidate: RuntimeCandidate,
    say: Say,
) -> tuple[dict[TokenSequence, Noise], float]:
    """Torch's noise in the sequences whose verdict depends on it, and the margin of clear choices that it asks for.

    What is within the default limits passes whatever the noise, which can only widen them.
    """
    undecided = [(comparison.case, comparison.undecided()) for comparison in compared]
    in_float32 = [case for case, figures in undecided if figures & {"max_abs", "cache_error"}]
    is_rounding = any(figures & {"mean_kl", "clear_top1_agreement"} for _, figures in undecided)
    noise: dict[TokenSequence, Noise] = {}
    largest = 0.0
    if in_float32 or is_rounding:
        with candidate.torch(model_folder) as runner:
            sequences = {sequence: references[sequence] for case in in_float32 for sequence in sequences_of(case)}
            noise = measure_exact_noise(runner, sequences, store, say)
            if is_rounding:
                rounding, largest = candidate.rounding_noise(runner, _of_rounding(compared, references), store)
                noise |= {sequence: rounded | noise.get(sequence, Noise()) for sequence, rounded in rounding.items()}
    return noise, max(CLEAR_MARGIN, 2 * largest)


def _of_rounding(
    compared: Sequence[Compared], references: Mapping[TokenSequence, Reference]
) -> dict[TokenSequence, Reference]:
    """The references of all cases of the passes that round what they compute."""
    cases = (comparison.case for comparison in compared if comparison.run.is_rounding)
    return {sequence: references[sequence] for case in cases for sequence in sequences_of(case)}


def plan_cases(
    hf_folder: Path,
    prompts: Sequence[str],
    *,
    decode_steps: int = DECODE_STEPS,
    long_tokens: int = LONG_TOKENS,
) -> tuple[Case, ...]:
    """The cases that `run_parity` plans for the same arguments; it raises the same errors."""
    if decode_steps < 1:
        raise UsageError(f"parity needs at least one decode step, not {decode_steps}")
    if long_tokens < 1:
        raise UsageError(f"the longest prompt needs at least one token, not {long_tokens}")
    spec = _model_spec(hf_folder)
    limit = _prompt_limit(spec, decode_steps)
    longest = max(limit, min(long_tokens, spec.max_position_embeddings) - decode_steps)
    texts = tokenize_prompts(hf_folder, prompts, max_tokens=limit + decode_steps, vocab_size=spec.vocab_size)
    return parity_cases(
        texts, vocab_size=spec.vocab_size, max_prompt_tokens=limit, long_tokens=longest, steps=decode_steps
    )


def _model_spec(folder: Path) -> ModelSpec:
    try:
        return read_spec(folder)
    except InputError as error:
        raise ArtifactError(str(error)) from error


def _prompt_limit(spec: ModelSpec, decode_steps: int) -> int:
    """Largest number of prompt tokens for which the last decode step is still within the model's context."""
    limit = min(MAX_PROMPT_TOKENS, spec.max_position_embeddings - decode_steps)
    if limit < BATCH_ROWS:
        raise UsageError(
            f"{decode_steps} decode steps leave too few of the model's {spec.max_position_embeddings} positions; "
            "use fewer"
        )
    return limit


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}
