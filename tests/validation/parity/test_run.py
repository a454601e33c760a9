from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from support.product import OnnxFormat, Run, States, padded

from converters.onnx.weights.scaling import Scaling
from seap_export.errors import InputError, UsageError
from seap_export.model.families import model_spec
from validation.checkpoint import Change
from validation.execution import Execution
from validation.parity import run as parity
from validation.parity.answers import Answers
from validation.parity.candidates import onnx_candidate
from validation.parity.profiles import Limits, Noise
from validation.parity.report import ParityReport
from validation.parity.run import run_parity
from validation.runtimes.pytorch.torch_runner import TakeCache

VOCABULARY = 11
CONFIG = {
    "model_type": "seap_llama", "vocab_size": VOCABULARY, "hidden_size": 16, "num_attention_heads": 2,
    "num_hidden_layers": 1, "intermediate_size": 8, "max_position_embeddings": 32,
}  # fmt: skip
PROMPTS = ["one two three four five", "one two", "one two three"]
Spoil = Callable[[str, int, int, np.ndarray], None]
Compare = Callable[..., ParityReport]


def _truth(token: int, position: int) -> np.ndarray:
    return np.cos(np.arange(VOCABULARY) * (token + 1) + position).astype(np.float32)


def _cache(length: int) -> tuple[States, ...]:
    values = np.arange(1.0, length + 1, dtype=np.float32)[None, :, None]
    return ({"key": values, "value": -values},)


def fp32(max_abs: float) -> Limits:
    return Limits((("fp32", "max_abs", max_abs),))


def raised(token: int, by: float, **where: Any) -> Spoil:
    """Adds to the logit of a token, in what has this `stage`, `row` or `position`."""

    def spoil(stage: str, row: int, position: int, logits: np.ndarray) -> None:
        if stage != "cache" and where.items() <= {"stage": stage, "row": row, "position": position}.items():
            logits[token] += by

    return spoil


class FakeTorch:
    spec = model_spec(CONFIG)

    def use_attention(self, name: str) -> None: ...

    def change_weights(self, change: Change) -> None: ...

    def run(self, runs: Sequence[Run], take_cache: TakeCache) -> Iterator[np.ndarray]:
        for index, each in enumerate(runs):
            take_cache(index, _cache(sum(map(len, each.parts)))[0])
        yield from map(self.logits, runs)

    def logits(self, run: Run) -> np.ndarray:
        tokens = [token for part in run.parts for token in part]
        return np.stack([_truth(token, position) for position, token in enumerate(tokens)])[-run.kept :]


class FakeOnnx:
    """Computes the same from padded input; `spoil(stage, row, position or step, logits)` may change a token's."""

    spoil: Spoil = staticmethod(lambda *_: None)  # type: ignore[assignment]
    gives, where = "logits", ""
    lengths: list[int]
    logits: np.ndarray

    def __init__(self, session: Any) -> None: ...

    def close(self) -> None: ...

    def start(self, prompts: Sequence[Sequence[int]], room: int) -> FakeOnnx:
        self.where, ends = "served ", [len(prompt) for prompt in prompts]
        self.logits = self.prefill(padded(prompts), ends, room)[range(len(ends)), np.array(ends) - 1]
        return self

    def misreads_masks(self) -> bool:
        return False

    def append(self, input_ids: np.ndarray) -> np.ndarray:
        (start,) = self.lengths
        logits = [_truth(token, start + index) for index, token in enumerate(input_ids[0])]
        for index in range(len(logits)):
            type(self).spoil("prefill 1", 0, start + index, logits[index])
        self.lengths = [start + len(logits)]
        return np.stack(logits)[None]

    def cache(self, row: int) -> tuple[States, ...]:
        computed = _cache(self.lengths[row] + self.steps)
        type(self).spoil("cache", row, 0, computed[0]["value"])
        return computed

    def prefill(self, input_ids: np.ndarray, lengths: Sequence[int], room: int) -> np.ndarray:
        self.lengths, self.steps = list(lengths), 0
        logits = np.full((*input_ids.shape, VOCABULARY), np.nan, np.float32)  # padding must not be looked at
        for row, length in enumerate(lengths):
            for position in range(length):
                logits[row, position] = _truth(int(input_ids[row, position]), position)
                type(self).spoil(f"{self.where}prefill {len(lengths)}", row, position, logits[row, position])
        return logits

    def step(self, next_ids: Sequence[int]) -> np.ndarray:
        positions = [length + self.steps for length in self.lengths]
        logits = np.stack([_truth(token, position) for token, position in zip(next_ids, positions, strict=True)])
        for row in range(len(logits)):
            type(self).spoil(f"{self.where}decode {len(logits)}", row, self.steps, logits[row])
        self.steps, self.logits = self.steps + 1, logits
        return logits


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """`run(spoil, **arguments)`: a parity run of two fake models; `provider="cuda"` on a GPU that there is not."""

    def session(path: Path, provider: str, *_: Any, **__: Any) -> Any:
        names, options = [f"{provider.upper()}ExecutionProvider"], SimpleNamespace(intra_op_num_threads=2)
        return SimpleNamespace(get_providers=lambda: names, get_session_options=lambda: options)

    (tmp_path / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    patches: dict[str, Any] = {
        "candidates.onnx_candidate.open_torch_runner": lambda *_, **__: contextlib.nullcontext(FakeTorch()),
        "run.ModelTexts": Mock(),
        "run.runtime_figures": Mock(return_value=None),
        "run.tokenize_prompts": lambda folder, prompts, **_: tuple(tuple(map(len, one.split())) for one in prompts),
        "candidates.onnx_candidate.claim_memory": Mock(return_value=False),
        "candidates.onnx_candidate.open_session": session,
        "candidates.onnx_candidate.probe": Mock(),
        "candidates.onnx_candidate.read_scaling": lambda _: Scaling(),
        "candidates.onnx_candidate.device_name": {"cpu": None, "cuda": "NVIDIA H100"}.get,
        "candidates.onnx_candidate.decoder_options": lambda path, provider: {"enable_cuda_graph": "1"},
        "candidates.onnx_candidate.OnnxCandidate.answers": lambda self, case, _: Answers(case),
    }
    for name, value in patches.items():
        monkeypatch.setattr(f"validation.parity.{name}", value)
    monkeypatch.setattr(OnnxFormat, "read", lambda _: OnnxFormat("fp32"))

    def execute(
        spoil: Spoil | None = None, prompts: Sequence[str] = PROMPTS, provider: Any = "cpu", **arguments: Any
    ) -> ParityReport:
        fake = type("SpoiltOnnx", (FakeOnnx,), {"spoil": staticmethod(spoil)}) if spoil else FakeOnnx
        served = {(32, "cuda", '{"enable_cuda_graph": "1"}'): fake}
        decoder = lambda path, context, on, threads, options: served[context, on, json.dumps(options)](None)  # noqa: E731
        monkeypatch.setattr(onnx_candidate, "OnnxRunner", fake)
        monkeypatch.setattr(onnx_candidate, "OnnxDecoder", decoder)
        return run_parity(tmp_path, tmp_path, prompts, execution=Execution(provider), **arguments)

    return execute


def test_equal_models_pass_in_every_case_and_stage(run: Compare) -> None:
    said: list[str] = []
    report = run(on_progress=said.append)
    assert report.passed
    cases = [(stage.case, stage.stage, stage.rows, stage.figures.tokens) for stage in report.stages]
    prefilled = {"prompt 0": 5, "prompt 1": 2, "prompt 2": 3, "batch of 3": 10, "one token": 1, "random tokens": 16}
    prefilled["long prompt"] = 8  # of 16 in two calls, so that the last is at the context's end
    assert cases == [
        (case, stage, rows, tokens)
        for case, prompt in prefilled.items()
        for rows in (3 if "batch" in case else 1,)
        for stage, tokens in (("prefill", prompt), ("decode", 16 * rows))
    ]
    assert (said[0], said[-1]) == ("torch: layer 1 of 1", "onnx: long prompt")
    assert (report.longest_tokens, report.context_length) == (32, 32)
    assert run(decode_steps=2).to_json()["max_prompt_tokens"] == 30  # 32 positions, less two decode steps
    assert report.summary() == (
        "parity passed: max abs 0 (limit 0.001), cache error 0 (limit 0.001), top-1 100.0% "
        "over 189 tokens of 3 prompts in fp32 on CPUExecutionProvider"
    )
    report = run(provider="cuda")
    assert report.passed
    assert [(s.case, s.stage, s.figures.tokens, s.cache) for s in report.stages if s.case.endswith("served")] == [
        (f"{name}, served", *stage, None)
        for name, rows in (("prompt 0", 1), ("batch of 3", 3))
        for stage in (("prefill", rows), ("decode", 16 * rows))
    ]
    assert report.summary().endswith("in fp32 on CUDAExecutionProvider (NVIDIA H100)")


def of_the_cache(stage: str, row: int, position: int, values: np.ndarray) -> None:
    if (stage, row) == ("cache", 2):
        values[0, 1] += 1.0


BEYOND, SERVED = r"max abs \S+ > 0.001 at case", "'batch of 3, served', row 2"
DEFECT = r"in the candidate's logits \(1 token\), first at case 'prompt 0', row 0, position 1, token id 5"
FAULTS: dict[str, tuple[Spoil, str]] = {
    "cache": (of_the_cache, r"cache error \S+ > 0.001 in the values of layer 0, after case 'batch of 3'"),
    "prefill": (raised(7, 0.25, stage="served prefill 3", row=2), f"{BEYOND} {SERVED}, position 2, token id 7"),
    "decode": (raised(7, 0.25, stage="served decode 3", row=2, position=3), f"{BEYOND} {SERVED}, decode step 3, .* 7"),
    "NaN": (raised(5, np.nan, stage="prefill 1", position=1), f"NaN {DEFECT}"),
    "Inf": (raised(5, np.inf, stage="prefill 1", position=1), f"Inf {DEFECT}"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_difference_is_located(run: Compare, fault: str) -> None:
    spoil, reason = FAULTS[fault]
    is_finite = fault not in ("NaN", "Inf")
    report = run(spoil, provider="cuda", limits=Limits() if is_finite else fp32(1e30))
    assert re.fullmatch(reason, report.reasons[0])
    assert len(report.reasons) == 1 or not is_finite
    assert report.failure().endswith("no limit would pass") is not is_finite
    json.dumps(report.to_json(), allow_nan=False)


def test_limits_that_would_pass_are_told_and_pass(run: Compare) -> None:
    spoil = raised(7, 0.00321, stage="decode 3", row=1, position=4)
    report = run(spoil)
    assert not report.passed
    assert report.smallest_passing_limits == {"max_abs": 0.0033, "cache_error": 0.0}
    assert report.failure() == (
        "max abs 0.00322 > 0.001 at case 'batch of 3', row 1, decode step 4, token id 7; "
        "max_abs = 0.0033 under [fp32] in a file of limits would pass"
    )
    assert report.summary().startswith("parity FAILED: max abs 0.0032")
    loose = run(spoil, limits=fp32(0.0033))
    assert loose.passed
    assert loose.to_json()["looser_limits"] == ["fp32 max_abs 0.0033 is looser than the default 0.001"]
    assert not run(spoil, limits=fp32(0.0032)).passed


@pytest.mark.parametrize("cause", ["sdpa", "float64"])
def test_what_torch_itself_cannot_tell_is_let_pass(run: Compare, monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    """With another attention kernel, or in float64, torch is off by 0.0005: ten times as much passes, no more."""
    honest = FakeTorch.logits
    attention, dtypes = ["eager"], [torch.float32]

    def noisy(self: FakeTorch, run: Run) -> np.ndarray:
        is_off = attention[-1] == cause or dtypes[-1] == getattr(torch, cause, None)
        return honest(self, run) + np.float32(0.0005 if is_off else 0.0)

    def change(self: FakeTorch, changed: Change) -> None:
        dtypes.append(changed({"a": torch.zeros(1)})["a"].dtype)

    spoil = raised(7, 0.0045)
    assert not run(spoil).passed
    monkeypatch.setattr(FakeTorch, "logits", noisy)
    monkeypatch.setattr(FakeTorch, "use_attention", lambda self, name: attention.append(name))
    monkeypatch.setattr(FakeTorch, "change_weights", change)
    assert run(spoil).passed
    assert dtypes == [torch.float32, torch.float64, torch.float32]
    attention.append("eager")
    assert not run(spoil, limits=fp32(0.001)).passed
    assert attention[-1] == "eager"  # no noise is measured where it cannot change the verdict


def test_noise_is_measured_for_the_cases_beyond_a_default_limit_alone(run: Compare) -> None:
    said: list[str] = []
    assert run(on_progress=said.append).passed
    assert not [line for line in said if "noise" in line]
    assert not run(raised(7, 0.0045, stage="decode 3", row=1), on_progress=said.append).passed
    noise = [f"torch: noise of {source}, sequence" for source in ("another attention kernel", "float32")]
    assert [line for line in said if "noise" in line] == [f"{line} {n} of 3" for line in noise for n in (1, 2, 3)]


def test_where_routers_choose_otherwise_predictions_count(run: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Noise(max_abs=9.0, cache_error=1e-9, choices_kl=2e-3)
    monkeypatch.setattr(parity, "measure_exact_noise", lambda _, known, *__: dict.fromkeys(known, noise))
    errors: dict[str, float] = {}

    def spoil(stage: str, row: int, position: int, logits: np.ndarray) -> None:
        logits.reshape(-1)[7] += errors.get(stage, 0.0) * (row == 1)

    errors["decode 3"] = 0.25
    report = run(spoil)
    assert report.passed
    assert report.summary().startswith(
        "parity passed: max abs 0 (limit 0.001), cache error 0 (limit 0.001), mean KL 0.00"
    )
    errors["decode 3"] = 2.0
    report = run(spoil)
    reason, *others = report.reasons
    assert re.fullmatch(
        r"mean KL \S+ > 0.02; the largest difference of a logit at case 'batch of 3', row 1, .*", reason
    )
    assert not others
    assert report.failure().endswith("; max_abs = 2.1 under [fp32] in a file of limits would pass")
    errors["cache"] = 1.0
    assert run(spoil).hint.startswith("max_abs = 2.1, cache_error = 0.093 under")
    monkeypatch.setattr(FakeOnnx, "cache", lambda self, row: None)  # whose error would be noise, too
    noise = replace(noise, cache_error=9.0)
    assert run(spoil).hint == "max_abs = 2.1 under [fp32] in a file of limits would pass"
    assert run(spoil, limits=fp32(2.1)).passed


@pytest.mark.parametrize(("noise", "passes"), [(0.0, False), (0.075, False), (0.08, True)])
def test_a_choice_is_clear_beyond_twice_the_largest_difference_of_rounding(
    run: Compare, monkeypatch: pytest.MonkeyPatch, noise: float, passes: bool
) -> None:
    best, second = np.argsort(-_truth(3, 0))[:2]  # the first token of each prompt has three letters
    lead = float(_truth(3, 0)[best] - _truth(3, 0)[second])
    assert 2 * 0.075 < lead < 2 * 0.08
    monkeypatch.setattr(OnnxFormat, "read", lambda _: OnnxFormat("fp16"))
    monkeypatch.setattr(onnx_candidate.OnnxCandidate, "rounding_noise", lambda *_: ({}, noise))
    spoil = raised(int(second), lead + 0.01, stage="prefill 1", position=0)
    assert run(spoil, limits=Limits((("fp16", "mean_kl", 9.0),))).passed is passes


def test_the_largest_difference_is_named_first(run: Compare) -> None:
    def spoil(stage: str, row: int, position: int, logits: np.ndarray) -> None:
        if stage != "cache":
            logits[3] += 0.5 if (stage, row, position) == ("decode 1", 0, 2) else 0.25

    report = run(spoil)
    assert report.reasons[0] == "max abs 0.5 > 0.001 at case 'prompt 0', row 0, decode step 2, token id 3"
    assert "(and 13 more)" in report.failure()


def test_no_limit_lets_misread_masks_and_another_vocabulary_pass(
    run: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeOnnx, "misreads_masks", lambda self: True)
    misread = run()
    assert "padded on the left" in " ".join(misread.reasons)
    monkeypatch.setattr(FakeTorch, "logits", lambda self, each: np.zeros((each.kept, 9), np.float32))
    other = run()
    assert "logits of shape [5, 11], expected [5, 9], in prefill of case 'prompt 0', row 0" in other.reasons
    assert all(report.failure().endswith("no limit would pass") for report in (misread, other))


def test_work_on_another_provider_fails_and_shape_arithmetic_does_not(run: Compare) -> None:
    nodes = {"CPUExecutionProvider": {"Shape": 3, "MatMul": 2}, "CUDAExecutionProvider": {"MatMul": 9}}
    passed = run()

    def with_nodes(nodes: dict[str, dict[str, int]]) -> ParityReport:
        conditions = replace(passed.conditions, provider="CUDAExecutionProvider", nodes=nodes)
        return replace(passed, provider_asked="cuda", conditions=conditions)

    report = with_nodes(nodes)
    assert report.reasons == ("2 MatMul nodes ran on CPUExecutionProvider instead of CUDAExecutionProvider",)
    assert not report.passed
    assert report.failure().endswith("no limit would pass")
    assert with_nodes({**nodes, "CPUExecutionProvider": {"Shape": 3}}).passed


@pytest.mark.parametrize(
    ("prompts", "options", "says"),
    [
        ([], {}, "at least one prompt"),
        (["the cat", ""], {}, "prompt 1 has no tokens"),
        (["the cat"], {"decode_steps": 0}, "at least one decode step"),
        (["the cat"], {"long_tokens": 0}, "at least one token"),
        (["the cat"], {"decode_steps": 62}, "leave too few"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    micro_hf: Callable[[str], Path], tmp_path: Path, prompts: list[str], options: dict[str, Any], says: str
) -> None:
    with pytest.raises((UsageError, InputError), match=says):
        run_parity(micro_hf("Llama"), tmp_path, prompts, **options)
