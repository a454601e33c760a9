"""The export parity gate: an ONNX graph against the torch model that it was written from.

Torch runs first and is closed before the ONNX session opens, so two models are never in memory at once; its logits
wait in a temporary file. The truth for a row of a padded batch is the same prompt run alone. Torch opens again only
if a figure exceeds its default limit, to measure whether its own noise explains that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnxruntime as ort

from converters.blocks import in_float_activations
from converters.form import read_form
from converters.scaling import read_scaling
from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.families import ModelSpec, model_spec
from seap_export.runtime.decoder import Decoder
from seap_export.runtime.doctor.driver import gpu_name
from seap_export.runtime.files import decoder_options
from seap_export.runtime.providers import PROVIDERS
from seap_export.runtime.session import available_threads, nodes_by_provider, open_session, probe
from seap_export.sources.config import read_json
from validation.array_store import ArrayStore
from validation.compared import Compared, compare, compare_served, served_cases
from validation.metrics import CLEAR_MARGIN
from validation.onnx_runner import OnnxRunner
from validation.profiles import SERVED, Limits, Noise, passes
from validation.prompts import BATCH_ROWS, Case, parity_cases, prompt_digests, tokenize_prompts
from validation.references import (
    Reference,
    TokenSequence,
    measure_exact_noise,
    measure_rounding_noise,
    run_references,
    sequences_of,
)
from validation.report import ParityReport
from validation.rounding import round_weights
from validation.torch_runner import TorchRunner, open_torch_runner

__all__ = ["DECODE_STEPS", "LONG_TOKENS", "plan_cases", "run_parity"]

Progress = Callable[[str], None]
_DEFAULT = Limits()
#: Tokens of the long prompt, whose attention grows with their square, and of the other prompts.
LONG_TOKENS, MAX_PROMPT_TOKENS = 2048, 128
DECODE_STEPS = 16


@dataclass(frozen=True)
class _Place:
    """The provider, GPU, nodes and threads of a session; see `ParityReport`."""

    provider: str
    gpu: str | None
    nodes: dict[str, dict[str, int]] | None
    threads: int

    @classmethod
    def of(cls, session: ort.InferenceSession) -> _Place:
        threads = session.get_session_options().intra_op_num_threads
        provider = session.get_providers()[0]
        gpu = None if provider == PROVIDERS["cpu"] else gpu_name()
        return cls(provider, gpu, nodes_by_provider(session), threads)


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
    """Compares the logits and caches of `onnx_folder`/model.onnx with those of the float32 model in `hf_folder`.

    The graph's metadata say in which form it was written. If its weights are int8 or int4, the reference has the same
    rounded weights, and on the CPU the graph also runs with activations that are not rounded: then only the order of
    sums differs. Limits: see `validation.profiles`; cases: `validation.prompts.parity_cases`.

    Each case is a prompt, or several, and then `decode_steps` tokens one at a time, the same on both sides. After the
    last one, all keys and values are compared. On a GPU, a prompt and a batch are decoded a second time through the
    runner, so that its CUDA graph is compared too.

    Args:
        hf_folder: config.json, safetensors files and tokenizer.
        onnx_folder: model.onnx and model.onnx.data; for a GPU also genai_config.json.
        prompts: At least one; with fewer than three different lengths the batch repeats and cuts them.
        provider: "cpu" or "cuda", for ONNX Runtime; torch always runs on the CPU.
        threads: Threads of torch and of ONNX Runtime; None: all cores this process may use.
        decode_steps: At least 1.
        limits: The limits that are judged.
        max_prompt_tokens: Longer prompts are cut; at least 3, and never more than the model's positions allow.
        long_tokens: Positions that the long prompt reaches with its decode steps, as far as the model's go.
        on_progress: Called with a line about each sequence or case before it runs.

    Returns:
        The report; a failed comparison is a verdict in it, not an exception.

    Raises:
        UsageError: An argument is out of range.
        InputError: There is no prompt, or one has no tokens.
        ArtifactError: The model folder or the ONNX file cannot be loaded.
        EnvironmentFailure: The execution provider is not available, or memory or disk space runs out.
        ParityFailure: The graph does not run at all.
    """
    probe(provider)  # before the references, which take long
    say = on_progress or (lambda line: None)
    threads = threads if threads is not None else available_threads()
    spec, model = _model_spec(hf_folder), onnx_folder / "model.onnx"
    limit = _prompt_limit(spec, decode_steps, max_prompt_tokens)
    cases = plan_cases(
        hf_folder, prompts, decode_steps=decode_steps, max_prompt_tokens=max_prompt_tokens, long_tokens=long_tokens
    )
    form, scaling = read_form(model), read_scaling(model)
    prepare = partial(round_weights, spec=spec, precision=form.precision)
    with ArrayStore() as store:
        with open_torch_runner(hf_folder, threads, prepare) as torch_runner:
            references = run_references(torch_runner, cases, store, spec, say)
        compared: list[Compared] = []
        for own in passes(form.precision, provider, limits):
            graph = in_float_activations(model) if own.in_float else None
            session = open_session(model, provider, threads, graph=graph)
            place = _Place.of(session)  # the last pass runs the graph as it is
            runner = OnnxRunner(session)
            for case in cases:
                say(f"onnx: {case.name}{own.suffix}")
                compared.append(compare(case, own, references, runner, store))
            # The fused attention would compute such rows wrongly without an error.
            is_unguarded = form.dialect == "fused" and runner.takes_left_padding()
            del runner, session  # before the next one opens, so that the weights are in memory once
        if provider != "cpu":
            options = decoder_options(onnx_folder / "genai_config.json", provider)
            decoder = Decoder(model, spec.max_position_embeddings, provider, threads, options)
            for case in served_cases(cases):
                say(f"onnx: {case.name}, {SERVED}")
                compared.append(compare_served(case, replace(own, label=SERVED), references, decoder, store))
            del decoder

        def round_alike(torch_runner: TorchRunner) -> tuple[dict[TokenSequence, Noise], float]:
            return measure_rounding_noise(
                torch_runner, references, store, spec, form.precision, scaling, provider, say
            )

        def reopen() -> AbstractContextManager[TorchRunner]:
            return open_torch_runner(hf_folder, threads, prepare)

        noise, margin = _noise(compared, references, store, reopen, round_alike, say)
    return ParityReport(
        stages=tuple(stage for own in compared for stage in own.results(noise, margin)),
        form=form,
        provider_asked=provider,
        provider_obtained=place.provider,
        gpu=place.gpu,
        nodes=place.nodes,
        threads=place.threads,
        versions=_versions(),
        decode_steps=decode_steps,
        max_prompt_tokens=limit,
        prompt_sha256=prompt_digests(prompts),
        longest_tokens=max(len(row) for case in cases for row in case.rows) + decode_steps,
        context_length=spec.max_position_embeddings,
        noise_kl=max((own.mean_kl for own in noise.values()), default=0.0) or None,
        looser_limits=limits.looser(form.precision.name),
        is_unguarded=is_unguarded,
    )


def _noise(
    compared: Sequence[Compared],
    references: Mapping[TokenSequence, Reference],
    store: ArrayStore,
    reopen: Callable[[], AbstractContextManager[TorchRunner]],
    round_alike: Callable[[TorchRunner], tuple[dict[TokenSequence, Noise], float]],
    say: Progress,
) -> tuple[dict[TokenSequence, Noise], float]:
    """Torch's noise in the sequences whose verdict depends on it, and the margin of clear choices that it asks for.

    What is within the default limits passes whatever the noise, which can only widen them.
    """
    undecided = [(own.case, own.undecided()) for own in compared]
    in_float32 = [case for case, figures in undecided if figures & {"max_abs", "cache_error"}]
    is_rounding = any(figures & {"mean_kl", "clear_top1_agreement"} for _, figures in undecided)
    noise: dict[TokenSequence, Noise] = {}
    largest = 0.0
    if in_float32 or is_rounding:
        with reopen() as runner:
            own_references = {own: references[own] for case in in_float32 for own in sequences_of(case)}
            noise = measure_exact_noise(runner, own_references, store, say)
            if is_rounding:
                rounding, largest = round_alike(runner)
                noise |= {sequence: own | noise.get(sequence, Noise()) for sequence, own in rounding.items()}
    return noise, max(CLEAR_MARGIN, 2 * largest)


def plan_cases(
    hf_folder: Path,
    prompts: Sequence[str],
    *,
    decode_steps: int = DECODE_STEPS,
    max_prompt_tokens: int = MAX_PROMPT_TOKENS,
    long_tokens: int = LONG_TOKENS,
) -> tuple[Case, ...]:
    """The cases that `run_parity` runs for the same arguments; it raises the same errors."""
    _check_arguments(decode_steps, max_prompt_tokens, long_tokens)
    spec = _model_spec(hf_folder)
    limit = _prompt_limit(spec, decode_steps, max_prompt_tokens)
    longest = max(limit, min(long_tokens, spec.max_position_embeddings) - decode_steps)
    texts = tokenize_prompts(hf_folder, prompts, max_tokens=limit + decode_steps, vocab_size=spec.vocab_size)
    return parity_cases(
        texts, vocab_size=spec.vocab_size, max_prompt_tokens=limit, long_tokens=longest, steps=decode_steps
    )


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
    """Largest number of prompt tokens for which the last decode step is still within the model's context."""
    limit = min(max_prompt_tokens, spec.max_position_embeddings - decode_steps)
    if limit < BATCH_ROWS:
        raise UsageError(
            f"{decode_steps} decode steps leave too few of the model's {spec.max_position_embeddings} positions; "
            "use fewer"
        )
    return limit


def _versions() -> dict[str, str]:
    import onnxruntime
    import torch
    import transformers

    return {
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
