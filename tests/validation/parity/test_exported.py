"""Exported micro models: parity of what `generate` writes, of rounded weights, of damage, and of other formats."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from fake_cuda.machine import Machine
from safetensors.torch import load_file, save_file
from support.editing import edit_json, edit_weights, set_json
from support.execution import ONE_THREAD
from support.formats.fake_format import FAKE_FILE, FakeFormat, FakeRunner, Quiet, install_fake_format
from support.formats.written import complaints
from support.models import write_micro_model
from support.product import (
    BlockQuantization,
    Decoding,
    GgufFormat,
    OnnxForm,
    Precision,
    choose_precision,
    convert_folder,
)
from support.variations import VARIATIONS, micro_config

from converters.onnx.precision import arithmetic_of
from seap_export.errors import ArtifactError
from seap_export.model.families import model_spec
from seap_export.runtime import generator as generators
from seap_export.runtime.decoding.sampling import Sampler
from seap_export.runtime.generator import Generator
from seap_export.runtime.text import TextStream
from validation.parity.candidates import candidate
from validation.parity.candidates.candidate import ParityInput, RuntimeCandidate
from validation.parity.origin import Origin
from validation.parity.profiles import Limits
from validation.parity.report import ParityReport
from validation.parity.run import run_parity
from validation.runtimes.table import runtime_row

PROMPTS = ("the cat sat on the mat and the dog sat", "a dog", "the mat and a cat sat")
STEPS, SERVED = 6, "batch of 3, served"
Compare = Callable[..., ParityReport]


@pytest.fixture(scope="module")
def written(micro_hf: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("answers")
    convert_folder(micro_hf("Llama"), folder)
    return micro_hf("Llama"), folder


@pytest.fixture
def compared(written: tuple[Path, Path], tmp_path: Path) -> Compare:
    """`compared(eos=..., genai=...)`: after these ends were put into the model folder and into genai_config.json."""

    def compare(eos: Sequence[int] = (), genai: Sequence[int] = ()) -> ParityReport:
        hf, folder = (Path(shutil.copytree(path, mkdtemp(dir=tmp_path), dirs_exist_ok=True)) for path in written)
        if eos:
            set_json(hf / "generation_config.json", eos_token_id=list(eos))
        if genai:
            edit_json(folder / "genai_config.json", lambda config: config["model"].update(eos_token_id=list(genai)))
        return run_parity(hf, folder, PROMPTS, execution=ONE_THREAD, decode_steps=STEPS, long_tokens=24)

    return compare


def _answers(folder: Path) -> list[list[int]]:
    generator = Generator(folder, threads=1)
    return generator.generate_ids_batch([generator.token_ids(prompt) for prompt in PROMPTS], STEPS)


def _decoded(report: ParityReport) -> Any:
    (decode,) = (stage for stage in report.stages if (stage.case, stage.stage) == (SERVED, "decode"))
    return decode.figures


def test_what_it_writes_are_the_steps_of_the_batch(compared: Compare, written: tuple[Path, Path]) -> None:
    rows, sound = _answers(written[1]), compared()
    assert sound.passed, sound.reasons
    cases = {(stage.case, stage.stage): stage for stage in sound.stages}
    assert [list(row) for row in cases["batch of 3", "decode"].prompts.forced] == rows
    assert (cases[SERVED, "prefill"].figures.tokens, _decoded(sound).tokens) == (3, 3 * STEPS)
    assert 0 < _decoded(sound).max_abs < 1e-4
    ends = [rows[0][2], rows[1][3]]
    ended = compared(ends, ends)
    assert ended.passed, ended.reasons
    assert min(next((n for n, token in enumerate(row, 1) if token in ends), STEPS) for row in rows) < STEPS
    assert _decoded(ended).tokens == 3 * STEPS


def _another_token(self: Decoding, tokens: Any, is_active: Any = None, step: Any = Decoding.step) -> None:
    """Each step is given the token before the one that was chosen."""
    step(self, [max(token - 1, 0) for token in tokens], is_active)


def _second_best(self: Sampler, logits: np.ndarray) -> int:
    return int(np.argsort(-logits)[1])


def _lost_piece(self: TextStream, token: int) -> str:
    self._tokens.append(token)
    self._given = len(self._tokens)
    return ""


def _unending(self: Generator, decoding: Any, rows: Any, steps: Any = Generator.steps) -> Any:
    for row in rows:
        row._ends = frozenset()
    return steps(self, decoding, rows)


def _other_sampler() -> Any:
    """Samplers that choose the most likely token for the batch, and then the least."""
    made = count()

    def sampler(sampling: Any, row: Any) -> Any:
        is_wrong = next(made) >= len(PROMPTS)
        return SimpleNamespace(choose=lambda logits: int(logits.argmin())) if is_wrong else Sampler(sampling, row)

    return sampler


FAULTS: dict[str, tuple[Any, str, Any, str]] = {
    "steps": (Decoding, "step", _another_token, f"case '{SERVED}', row"),
    "choice": (Sampler, "choose", _second_best, "its own logits say"),
    "pieces": (TextStream, "add", _lost_piece, "the text of the tokens of"),
    "end": (Generator, "steps", _unending, "generate ended row 0 after 6 tokens, and should have after"),
    "stream": (generators, "Sampler", _other_sampler(), "in a stream, step 0, where its own logits say"),
    "failure": (Generator, "steps", Mock(side_effect=ArtifactError("no cache")), "generate: no cache"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_its_path_is_found(
    compared: Compare, written: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    kind, name, wrong, words = FAULTS[fault]
    ends = [_answers(written[1])[0][2]] if fault == "end" else []
    monkeypatch.setattr(kind, name, wrong)
    report = compared(ends, ends)
    assert any(words in reason for reason in report.reasons), report.reasons
    assert (SERVED in {stage.case for stage in report.stages}) is (fault != "failure")


def test_other_ends_than_the_models_are_named(compared: Compare) -> None:
    report = compared(genai=[2, 7])
    assert report.reasons == ("generate ends a text at the tokens [2, 7], and the model at [2]",)
    assert report.hint == "no limit would pass"


def test_a_rounded_model_is_near_the_model_that_was_rounded(written: tuple[Path, Path], tmp_path: Path) -> None:
    hf, graph = written
    other = Path(shutil.copytree(hf, tmp_path / "other"))
    edit_weights(other, lambda tensors: tensors["lm_head.weight"].neg_())
    good, bad = (
        run_parity(hf, graph, PROMPTS, execution=ONE_THREAD, origin=Origin(folder, BlockQuantization(8)))
        for folder in (hf, other)
    )
    assert good.passed
    assert good.to_json()["rounding"] == {"kl_nats": 0.0, "limit_nats": 0.05}
    assert (bad.passed, bad.hint) == (False, "no limit would pass")
    assert bad.rounding is not None
    assert bad.rounding.kl > bad.rounding.limit > 0.0
    assert "KL from the model that was rounded" in bad.failure()


@pytest.mark.parametrize(
    ("name", "logits", "family"),
    [("int8", "all", "Llama"), ("int4", "last", "Qwen3"), ("w8a8", "last", "Mistral"), ("w4a8", "all", "Qwen2")],
)
def test_quantised_weights_are_compared_in_float32_too(
    micro_hf: Callable[[str], Path], tmp_path: Path, family: str, name: Any, logits: Any
) -> None:
    form = OnnxForm(choose_precision(name, block_size=32), logits=logits)
    convert_folder(micro_hf(family), tmp_path, form)
    report = run_parity(micro_hf(family), tmp_path, PROMPTS, execution=ONE_THREAD)
    assert report.passed, report.reasons
    assert report.subject.form == form.to_json()
    assert report.limits.keys() == {"max_abs", "cache_error", "mean_kl"}
    assert (report.limits["max_abs"], report.limits["cache_error"]) == (1e-3, 1e-3)
    # torch, rounding activations alike, is as far off
    assert 1e-2 <= report.limits["mean_kl"] <= max(1e-2, 12 * (report.noise_kl or 0.0))
    exact = [stage for stage in report.stages if stage.case.endswith(", in float32")]
    assert {stage.prompts.name for stage in exact} == {"batch of 3", "random tokens", "long prompt"}
    assert {stage.figures.tokens // stage.rows for stage in exact if stage.stage == "decode"} == {2}
    rounded = {stage.case for stage in report.stages if stage not in exact}
    prompts = {f"prompt {index}" for index in range(len(PROMPTS))}
    assert rounded == {*prompts, "batch of 3", "one token", "prompt 0, served", SERVED}
    assert all(stage.figures.max_abs < 1e-4 for stage in exact if stage.figures.max_abs is not None)
    tokens = {stage.figures.tokens for stage in report.stages if (stage.case, stage.stage) == ("prompt 0", "prefill")}
    assert tokens == {1} if logits == "last" else tokens.isdisjoint({1})
    wrong = Limits(((name, "mean_kl", 1e-9),))
    assert not run_parity(micro_hf(family), tmp_path, PROMPTS, execution=ONE_THREAD, limits=wrong).passed


_UP_PROJ, _EXTRA = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (1, 3))


def test_the_report_is_the_same_again_and_holds_no_paths(written: tuple[Path, Path]) -> None:
    hf, folder = written
    first, second = (run_parity(hf, folder, ["cat"], execution=ONE_THREAD, decode_steps=1) for _ in range(2))
    assert first.passed, first.reasons
    assert [stage.rows for stage in first.stages if stage.case == "batch of 3"] == [3, 3]
    assert first.to_json() == second.to_json()
    assert str(hf.parent) not in json.dumps(first.to_json())


def _other_up_proj(weights: dict[str, Any], name: str = _UP_PROJ, rows: int | None = None) -> None:
    weights[name] = weights[_UP_PROJ][:rows].clone()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: weights.pop(_UP_PROJ), f"1 missing keys in its weights, such as {_UP_PROJ}"),
        (partial(_other_up_proj, rows=-1), f"1 mismatched keys in its weights, such as {_UP_PROJ}"),
        (partial(_other_up_proj, name=_EXTRA), f"1 unexpected keys in its weights, such as {_EXTRA}"),
        (None, "its tokenizer cannot be loaded"),
    ],
)
def test_a_damaged_model_is_refused(
    written: tuple[Path, Path], tmp_path: Path, damage: Any, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    hf, onnx_folder = written
    damaged = Path(shutil.copytree(hf, tmp_path / "hf"))
    if damage is None:
        (damaged / "tokenizer.json").write_text('{"model": 1}', "utf-8")
    else:
        edit_weights(damaged, damage)
    with pytest.raises(ArtifactError, match=re.escape(message)):
        run_parity(damaged, onnx_folder, PROMPTS)
    assert capfd.readouterr() == ("", "")


OF_FAKED = ["the cat sat on the mat", "a dog", "the dog sat"]
Faked = Callable[..., tuple[Path, Path]]


@pytest.fixture
def faked(micro_hf: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faked:
    """`faked("f16")`: a model folder, and what was written from it."""
    install_fake_format(monkeypatch)

    def write(precision: str = "f32") -> tuple[Path, Path]:
        folder = tmp_path / "fake"
        folder.mkdir()
        FakeFormat(precision).write(micro_hf("Llama"), folder, lambda layer: None)
        return micro_hf("Llama"), folder

    return write


def compared_in(folders: tuple[Path, Path], runtime: str = "faked", **options: Any) -> ParityReport:
    return run_parity(*folders, OF_FAKED, runtime=runtime, execution=ONE_THREAD, **options)


def test_a_sound_folder_passes(faked: Faked) -> None:
    said: list[str] = []
    report = compared_in(faked(), on_progress=said.append)
    assert report.passed, report.failure()
    assert report.max_abs == pytest.approx(0.0, abs=1e-4)
    assert report.cache_error is not None
    assert "fake: batch of 3" in said
    assert FakeRunner.opened == 0
    values = report.to_json()
    assert (values["format"], values["runtime"], values["precision"]) == ("fake", "faked", "f32")
    assert values["form"] == {"version": 1, "precision": "f32"}
    assert values["provider"] == {"asked": "cpu", "obtained": "faked", "gpu": None, "nodes": None}


def test_torch_reads_what_was_written(faked: Faked) -> None:
    """Rounding of weights is no difference, nor is a wrong weight: `converters.comparison` is there for that."""
    model, folder = faked("f16")
    report = compared_in((model, folder))
    assert (report.passed, report.subject.limits) == (True, "fp16")
    assert report.mean_kl == pytest.approx(0.0, abs=1e-9)
    tensors = load_file(folder / FAKE_FILE)
    tensors["model.layers.1.mlp.up_proj.weight"] *= 1.5
    save_file(tensors, folder / FAKE_FILE)
    assert compared_in((model, folder)).passed
    (line,) = complaints(FakeFormat("f16"), model, folder)
    assert line.startswith("'model.layers.1.mlp.up_proj.weight' differs")


def test_what_a_runtime_does_otherwise_fails(faked: Faked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second gives log-probabilities and no cache."""
    bias, gains, folders = "model.layers.2.mlp.down_proj.bias", "model.norm.weight", faked()
    quiet = compared_in(folders, "faked-too")
    assert (quiet.passed, quiet.cache_error) == (True, None)
    monkeypatch.setattr(FakeRunner, "fault", staticmethod(lambda tensors: tensors[bias].add_(0.1)))
    monkeypatch.setattr(Quiet, "fault", staticmethod(lambda tensors: tensors[gains].mul_(1.01)))
    assert not compared_in(folders, "faked-too").passed
    report = compared_in(folders)
    assert not report.passed
    assert "under [fp32]" in report.failure()
    assert compared_in(folders, limits=Limits((("fp32", "max_abs", 10.0), ("fp32", "cache_error", 10.0)))).passed


@pytest.mark.parametrize(
    ("variation", "precision", "arithmetic", "block_size"),
    [
        ("llama-gqa", "f32", "fp32", None),
        ("gemma2", "f32", "fp16", None),
        ("gemma2", "q8_0", "int8", 32),
        ("llama-gqa", "q4_0", "int4", 32),
        ("llama-gqa", "q4_k_m", "int4", 128),  # k-quants round activations in larger blocks
        ("llama-gqa", "q6_k", "int4", 128),
    ],
)
def test_arithmetic_and_limits_follow_from_the_bits(
    variation: str, precision: str, arithmetic: str, block_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert arithmetic_of("bf16").name == "bf16"
    spec = model_spec(micro_config(**VARIATIONS[variation]))
    monkeypatch.setattr(candidate, "read_format", lambda folder: GgufFormat(precision))
    parity_input = ParityInput(Path(), spec, ONE_THREAD, lambda line: None)
    taken = RuntimeCandidate("llama.cpp", runtime_row("llama.cpp"), parity_input).arithmetic
    assert (taken.name, getattr(taken.quantization, "block_size", None)) == (arithmetic, block_size)


DECODED, LAYERS, VOCABULARY, FLOAT16 = 4, 3, 96, 2
#: Runs parity on the model and each of the folders that it is given, with a section of the log for each case.
PROGRAM = f"""
import sys
from pathlib import Path
from fake_cuda.log import mark
from validation.execution import Execution
from validation.parity.run import run_parity
model, *folders = map(Path, sys.argv[1:])
for folder in folders:
    run_parity(model, folder, ["w5 w6 w7", "w8"], execution=Execution("cuda", 1), decode_steps={DECODED},
               long_tokens=16, on_progress=lambda line: mark(f"{{folder.name}}, {{line}}"))
"""


@pytest.mark.needs("fake-cuda")
def test_caches_stay_on_the_gpu_and_steps_are_also_run_as_they_are_served(
    fake_cuda: type[Machine], tmp_path: Path
) -> None:
    model, dialects = write_micro_model(tmp_path / "m", model_type="llama"), ("fused", "standard")
    for dialect in dialects:
        (tmp_path / dialect).mkdir()
        convert_folder(model, tmp_path / dialect, OnnxForm(Precision("fp16"), dialect=dialect, provider="cuda"))
    ran = fake_cuda().run(["-c", PROGRAM, model, *(tmp_path / dialect for dialect in dialects)])
    assert ran.returncode == 0, ran.stderr
    for case, rows in (("prompt 0", 1), ("batch of 3", 3)):
        launches = ran[f"fused, onnx: {case}"]
        logits = launches.to_host[: DECODED + 1]
        assert logits[1:] == [rows * VOCABULARY * FLOAT16] * DECODED
        assert len(launches.to_host) == len(logits) + rows * 2 * LAYERS
        assert (launches.between_devices, launches.captures) == ([], 0)
        for dialect, captures in (("fused", 1), ("standard", 0)):
            served = ran[f"{dialect}, onnx: {case}, served"]
            assert (served.captures, len(served.replays) > 0, served.lost) == (captures, captures > 0, 0)
