"""Runtimes, which compute what torch computes with the weights that are written, for models of every family."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from support import needs
from support.chosen import ATTENDING, FOR_MLX, JOINT, RICHEST
from support.execution import ONE_THREAD
from support.formats.fake_format import FakeRunner, install_fake_format
from support.formats.written import WrittenModel
from support.models import write_micro_model, write_source
from support.plans import write_pruned_micro_model
from support.product import Run, choose_precision, open_torch_runner, padded, round_activations, run_parity
from support.variations import VARIATIONS, micro_config

from converters.formats import format_class
from seap_export.common.json_file import read_json
from seap_export.errors import ArtifactError, EnvironmentFailure, ParityFailure, UsageError
from seap_export.model.families import family_of_model_type, model_spec
from seap_export.model.families.names import LAYER
from validation.runtimes.executorch_runner import ExecutorchRunner
from validation.runtimes.litert_runner import LitertRunner
from validation.runtimes.mlx_runner import MlxRunner
from validation.runtimes.openvino_runner import OpenvinoRunner
from validation.runtimes.runner import Bounded, Runtime
from validation.runtimes.table import RUNTIMES, open_runtime, require_runtime
from validation.runtimes.vllm.runner import PYTHON, VllmRunner, vllm_refusal
from validation.runtimes.vllm.worker import _Server

#: The format of each runtime, and how it is opened to compute in float32 and to give the logits of all tokens.
OPENED: dict[str, tuple[str, Callable[..., Any]]] = {
    "openvino": ("openvino", OpenvinoRunner),
    "mlx-lm": ("mlx", partial(MlxRunner, in_float32=True)),
    "litert": ("litert", partial(LitertRunner, all_logits=True)),
    "executorch": ("executorch", partial(ExecutorchRunner, all_logits=True)),
}
#: Those of 3 groups do not divide 8 heads, so that a cache has a head of zeros.
EIGHT_HEADS = {"num_attention_heads": 8, "num_key_value_heads": 4}
#: What CI runs; `make test-all` adds the other families.
QUICK: list[tuple[str, str, str, dict[str, Any]]] = [
    ("openvino", "llama-gqa", "fp32", {"pruned": False}),
    ("openvino", "qwen3-biases", "int4", {}),
    ("openvino", "llama-biases", "fp32", EIGHT_HEADS),
    ("mlx-lm", "llama-gqa", "fp32", {"pruned": False}),
    ("mlx-lm", "llama-biases", "fp32", {}),
    ("mlx-lm", "qwen3-biases", "4bit", {}),
    ("litert", "qwen3-biases", "fp32", {}),
    ("litert", "gemma2-all", "fp32", {}),
    ("executorch", "qwen3-biases", "fp32", {}),
]
#: What rounding activations to the folder's own dtype changes in MLX.
ROUNDING = {"4bit": 0.03, "bf16": 0.2, "8bit": 0.04, "fp16": 0.03}


def cases() -> Iterator[Any]:
    for case in QUICK:
        yield pytest.param(*case, marks=pytest.mark.needs(case[0]))
    precisions = ("fp32", "fp16", "int8", "int4")
    full = [("openvino", name, precisions[index % 4]) for index, name in enumerate(JOINT)]
    full += [("mlx-lm", name, "fp32") for name in FOR_MLX]
    full += [("mlx-lm", *case) for case in (("gemma2-all", "bf16"), ("lfm2-all", "8bit"), ("gemma4-all", "fp16"))]
    for runtime in ("litert", "executorch"):
        specs = {name: model_spec(micro_config(**VARIATIONS[name])) for name in RICHEST}
        written = format_class(runtime)("fp32")
        full += [(runtime, name, "fp32") for name, spec in specs.items() if written.refusal(spec, Path()) is None]
    for runtime, name, precision in full:
        yield pytest.param(runtime, name, precision, {}, marks=[pytest.mark.needs(runtime), pytest.mark.full])


def of_each(*cases: tuple[Any, ...]) -> list[Any]:
    return [pytest.param(*case, marks=pytest.mark.needs(case[0])) for case in cases]


def written(folder: Path, runtime: str, variation: str, precision: str = "fp32", **values: Any) -> WrittenModel:
    source = write_source(folder / "hf", variation, **{"pruned": True, **values})
    return WrittenModel.of(format_class(OPENED[runtime][0])(precision), source)


@pytest.mark.parametrize(("runtime", "variation", "precision", "values"), [*cases()])
def test_equals_torch(
    tmp_path: Path, runtime: str, variation: str, precision: str, values: dict[str, Any], two_rows: Any
) -> None:
    """Two rows and their steps, twice, for the second generation starts anew; and a row in several calls."""
    made, open_runner = written(tmp_path, runtime, variation, precision, **values), OPENED[runtime][1]
    stored = made.source if precision == "fp32" else made.with_stored_weights(tmp_path / "again")
    runner, wanted = open_runner(made.folder), two_rows.of_torch(stored)
    for _ in range(2):
        assert two_rows.largest(two_rows.of(runner, keeps=runtime == "openvino"), wanted) <= 1e-3
    assert two_rows.in_calls(runner, stored) <= 1e-3
    if runtime == "mlx-lm" and precision in ROUNDING:
        (own, *_), truth = two_rows.of(MlxRunner(made.folder)), wanted[0]
        assert np.sqrt(np.square(own - truth).mean()) <= ROUNDING[precision] * np.sqrt(np.square(truth).mean())


@pytest.mark.needs("mlx-lm")
def test_the_code_in_the_folder_is_not_run(tmp_path: Path) -> None:
    folder = written(tmp_path, "mlx-lm", "llama-gqa").folder
    (folder / "modeling_mlx.py").write_text("raise SystemExit('run')")
    MlxRunner(folder).close()


@pytest.mark.parametrize(
    ("runtime", "precision", "share"),
    of_each(("litert", "int8", 0.2), ("executorch", "int4", 0.3), ("executorch", "int8", 0.3)),
)
def test_rounded_weights_are_exact_but_for_activations_that_are_rounded_as_in_torch(
    tmp_path: Path, prompts: list[list[int]], runtime: str, precision: str, share: float
) -> None:
    made, prompt = written(tmp_path, runtime, "qwen3-biases", precision), prompts[-1]
    run, how = Run([prompt], len(prompt)), choose_precision("int8").quantization
    assert how is not None
    with open_torch_runner(made.with_stored_weights(tmp_path / "again"), ONE_THREAD) as torch_runner:
        (exact,) = torch_runner.run([run])
        round_activations(torch_runner.model, torch_runner.spec, how, whole_rows=True)
        (rounded,) = torch_runner.run([run])

    def logits(**options: Any) -> np.ndarray:
        given: np.ndarray = OPENED[runtime][1](made.folder, **options).prefill(np.array([prompt]), [len(prompt)])[0]
        return given

    if runtime == "litert":
        assert np.abs(logits(in_float=True) - exact).max() <= 1e-3
    given = logits()
    assert np.abs(given - rounded).mean() < share * np.abs(given - exact).mean()
    texts = ["the cat", "a dog ran home"]
    report = run_parity(made.source, made.folder, texts, runtime=runtime, decode_steps=4, long_tokens=40)
    assert report.passed, report.summary()


# a call of ExecuTorch takes 128 tokens
@pytest.mark.parametrize(("runtime", "length"), of_each(("litert", 24), ("executorch", 200)))
def test_the_end_of_the_cache_is_reached_but_not_passed(
    tmp_path: Path, torch_logits: Callable[..., list[np.ndarray]], runtime: str, length: int
) -> None:
    made = written(tmp_path, runtime, "llama-gqa", max_position_embeddings=length)
    kinds: dict[str, Any] = {"litert": LitertRunner, "executorch": ExecutorchRunner}  # which give the last logits
    runner = kinds[runtime](made.folder)
    ids = [3 + index % 7 for index in range(length)]
    (truth,) = torch_logits(made.source, [ids])
    assert np.abs(runner.prefill(np.array([ids]), [length])[0, 0] - truth[-1]).max() <= 1e-3
    with pytest.raises(UsageError, match=f"holds at most {length} tokens"):
        runner.step([3])
    assert isinstance(runner, Bounded)
    assert runner.context_length == length


def test_what_is_unknown_or_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="onnxruntime"):
        require_runtime("ollama")
    install_fake_format(monkeypatch)
    name = "support.formats.fake_format:FakeRunner"
    monkeypatch.setitem(RUNTIMES, "faked", Runtime(name, extra="plots"))  # type: ignore[arg-type]
    monkeypatch.setattr("seap_export.common.extras.missing_packages", lambda extra: ["some-package"])
    with pytest.raises(EnvironmentFailure, match=r'faked needs some-package; run: pip install "matplotlib'):
        open_runtime("faked", tmp_path)
    monkeypatch.setitem(RUNTIMES, "faked", Runtime(name, check="elsewhere:missing"))  # type: ignore[arg-type]
    missing = Mock(side_effect=EnvironmentFailure("no node; install Node.js"))
    monkeypatch.setattr("validation.runtimes.table.resolve_name", lambda name: missing)
    with pytest.raises(EnvironmentFailure, match=r"Node\.js"):
        require_runtime("faked")
    assert FakeRunner.opened == 0


FILES = {
    "llama.cpp": "model.gguf", "openvino": "openvino_model.xml", "litert": "model.litertlm", "executorch": "model.pte",
    "transformers.js": "onnx/model.onnx", "mlx-lm": "config.json",
}  # fmt: skip


@pytest.mark.parametrize("runtime", [pytest.param(name, marks=pytest.mark.needs(name)) for name in FILES])
def test_a_damaged_file_is_refused(runtime: str, tmp_path: Path) -> None:
    file = FILES[runtime]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"GGUF" + bytes(64))
    with pytest.raises((ArtifactError, ParityFailure)):
        open_runtime(runtime.removesuffix("-lm"), tmp_path)


Logits = Callable[..., list[np.ndarray]]
#: vLLM's longrope would take other factors for larger heads, and is refused.
SERVED = tuple(
    name
    for name in RICHEST
    if name in ATTENDING
    and name not in ("gemma4-all", "gemma4_unified", "phi3-all")
    and family_of_model_type(VARIATIONS[name]["model_type"]).names["layer"] == LAYER
)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], VllmRunner]]:
    """Opens a folder in the environment that has vLLM; the process ends with the test."""
    monkeypatch.setenv(PYTHON, needs.find("vllm") or sys.executable)
    with ExitStack() as opened:
        yield lambda folder: opened.enter_context(closing(VllmRunner(folder, max_length=64)))


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


@pytest.mark.needs("vllm")
@pytest.mark.parametrize(
    "variation", [name if name == "gemma2-all" else pytest.param(name, marks=pytest.mark.full) for name in SERVED]
)
def test_vllm_equals_torch(
    tmp_path: Path, variation: str, vllm: Any, prompts: list[list[int]], torch_logits: Logits
) -> None:
    """Prefill of 16 prompts together, tokens that are appended, and what vLLM decodes itself: together as alone."""
    # Its kernel takes no heads of 16, and the classes of two families make hidden states of all heads.
    model = write_pruned_micro_model(tmp_path / "hf", variation, head_dim=32, hidden_size=192)
    runner = vllm(model)
    wanted, lengths = list(map(log_probabilities, torch_logits(model, prompts))), list(map(len, prompts))
    batch = runner.prefill(padded(prompts), lengths)
    for row, length, whole in zip(batch, lengths, wanted, strict=True):
        assert np.abs(row[:length] - whole).max() <= 1e-3
    runner.prefill(np.array([prompts[-1][:20]]), [20])
    assert np.abs(runner.step([prompts[-1][20]])[0] - wanted[-1][20]).max() <= 1e-3
    assert np.abs(runner.append(np.array([prompts[-1][21:25]]))[0] - wanted[-1][21:25]).max() <= 1e-3
    tokens, continuations = runner._score(prompts, 6)
    texts = [[*prompt, *following[:-1]] for prompt, following in zip(prompts, tokens, strict=True)]
    for row, whole in zip(continuations, torch_logits(model, texts), strict=True):
        assert np.abs(row - log_probabilities(whole)).max() <= 1e-3
        assert np.isfinite(row).all()
    assert runner.follow(prompts, 6) == tokens
    (alone,), (rows,) = runner._score([prompts[7]], 6)
    assert alone == tokens[7]
    assert np.abs(rows - continuations[7]).max() <= 1e-4


def test_log_probabilities_of_vllm_are_in_the_order_of_token_ids(tmp_path: Path) -> None:
    """vLLM gives those of a token beside the token itself, so nothing for the first one, and sorts them."""

    def flat(*rows: dict[int, float]) -> Any:
        ends = np.cumsum([len(row) for row in rows]).tolist()
        tokens, values = map(list, zip(*(pair for row in rows for pair in row.items()), strict=True))
        return SimpleNamespace(start_indices=[0, *ends[:-1]], end_indices=ends, token_ids=tokens, logprobs=values)

    following = SimpleNamespace(token_ids=[0], logprobs=flat({2: -1.0, 1: -2.0, 0: -3.0}))
    output = SimpleNamespace(outputs=[following], prompt_logprobs=flat({}, {0: -4.0, 2: -5.0, 1: -6.0}))
    server = object.__new__(_Server)
    server.vocab_size, server._sampling = 3, SimpleNamespace
    server._llm = SimpleNamespace(generate=lambda given, how, use_tqdm: [output] * len(given))
    path = tmp_path / "scores.npz"
    assert server.score([[1, 2]], 1, str(path)) == [[0]]
    with np.load(path) as arrays:
        assert arrays["0"].tolist() == [[-4.0, -6.0, -5.0], [-3.0, -2.0, -1.0]]


def test_longrope_beyond_its_switch_is_refused_and_scaled_logits_of_an_earlier_release(tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "hf", **VARIATIONS["phi3-all"])
    config = read_json(model / "config.json")
    assert "--max-model-len 16" in str(vllm_refusal(model_spec(config), config, 64))
    assert vllm_refusal(model_spec(config), config, 16) is None
    with pytest.raises(ArtifactError, match="--max-model-len 16"):
        VllmRunner(model)
    config = read_json(write_pruned_micro_model(tmp_path / "scaled", "granite-all") / "config.json")
    assert vllm_refusal(model_spec(config), config, 64) is None
    del config["logit_scale"]  # vLLM would leave the factor out without a word
    assert "lacks 'logit_scale'; export again" in str(vllm_refusal(model_spec(config), config, 64))
