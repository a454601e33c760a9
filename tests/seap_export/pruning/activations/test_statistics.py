"""Statistics come back from disk as they were, and those of a mixture count tokens by their task's weight.

Streaming covariances and moments are those of a two-pass computation, however the tokens come.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.calibration import mixture_of
from support.corpora import random_token_ids
from support.models import micro_source, projection_inputs, transformers_model
from support.product import OUTPUTS, Projection
from support.variations import micro_config

from seap_export.errors import ArtifactError, InputError
from seap_export.model.families import model_spec
from seap_export.pruning.activations import covariance as module
from seap_export.pruning.activations.covariance import CovarianceAccumulator, add_packed, mirrored, pack_symmetric
from seap_export.pruning.activations.moments import MomentAccumulator, Moments
from seap_export.pruning.activations.statistics import (
    TOKENS,
    Calibration,
    CalibrationRecord,
    SublayerStatistics,
    covariance_bytes,
    write_layer,
    write_record,
    write_sensitivity,
    write_tokens,
)
from seap_export.pruning.activations.task_mixture import FRESH_WEIGHT, TaskMixture

HELD_OUT = {"prompt": "wo ist\n", "completion": "hier — ja"}
RECORD = CalibrationRecord("boolq", "micro", "ab" * 32, 3, 512, 6, ("aa", "bb"), ("cc",), (HELD_OUT,))
#: o_proj has an input of 6 channels, down_proj one of 9.
SIZES = {"num_hidden_layers": 2, "hidden_size": 8, "head_dim": 2, "intermediate_size": 9}
SPEC = model_spec(micro_config(model_type="llama", num_attention_heads=3, num_key_value_heads=3, **SIZES))
TOKEN_IDS = [[5, 0, 7], [70000], [1, 2]]
SENSITIVITY = torch.tensor([[0.1, 2.0], [1.0 / 3.0, 4e-9]], dtype=torch.float64)
FILES = ("calibration.json", "sensitivity.safetensors", TOKENS, "layer-00000.safetensors", "layer-00001.safetensors")


def some_statistics(channels: int, seed: int) -> SublayerStatistics:
    generator = torch.Generator().manual_seed(seed)
    mean, variance = torch.rand(2, channels, generator=generator, dtype=torch.float64)
    root = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    moments = Moments(RECORD.num_tokens, mean, variance)
    return SublayerStatistics(moments, {"covariance": pack_symmetric(root @ root.T)})


LAYERS: list[dict[Projection, SublayerStatistics]] = [
    {"o_proj": some_statistics(6, index), "down_proj": some_statistics(9, 10 + index)} for index in range(2)
]


def write(folder: Path) -> None:
    for index, layer in enumerate(LAYERS):
        write_layer(folder, index, layer)
    write_tokens(folder / TOKENS, TOKEN_IDS)
    write_sensitivity(folder, SENSITIVITY)
    write_record(folder, RECORD)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def read_all(folder: Path) -> None:
    """Whatever a calibration has."""
    calibration = Calibration(folder)
    for index in range(2):
        calibration.layer(index)
        for output in OUTPUTS:
            calibration.covariance(index, output)
    calibration.sensitivity()
    calibration.token_ids()


def test_it_comes_back_as_it_was_and_covariances_in_the_precision_of_float32(folder: Path) -> None:
    calibration = Calibration(folder)
    assert calibration.record == RECORD
    assert calibration.sensitivity().dtype == torch.float64
    assert torch.equal(calibration.sensitivity(), SENSITIVITY)
    assert calibration.token_ids() == TOKEN_IDS
    for index, layer in enumerate(LAYERS):
        for output in OUTPUTS:
            sublayer, other = calibration.layer(index)[output], layer[output].moments
            assert sublayer.count == RECORD.num_tokens
            assert sublayer.mean.dtype == sublayer.variance.dtype == torch.float64
            assert torch.equal(sublayer.mean, other.mean)
            assert torch.equal(sublayer.variance, other.variance)
            covariance = calibration.covariance(index, output)
            assert covariance.dtype == torch.float64
            assert torch.equal(covariance, covariance.T)
            assert torch.equal(pack_symmetric(covariance), layer[output].further["covariance"])
    for read in (lambda: calibration.layer(2), lambda: calibration.covariance(2, "o_proj")):
        with pytest.raises(ArtifactError, match="another model"):
            read()
    tensors = [load_file(folder / file)[f"{output}.covariance"] for file in FILES[3:] for output in OUTPUTS]
    assert covariance_bytes(SPEC) == sum(tensor.nbytes for tensor in tensors) == 4 * 2 * (21 + 45)
    (folder / "again").mkdir()
    write(folder / "again")
    assert all((folder / file).read_bytes() == (folder / "again" / file).read_bytes() for file in FILES)


def test_a_record_that_is_no_such_record_is_refused(folder: Path) -> None:
    path, old, damaged = folder / "calibration.json", "expected '.*/3'; calibrate again", r"calibration\.json: damaged"
    record = json.loads(path.read_text("utf-8"))
    for values, message in (
        (record | {"schema": "seap-export/calibration/2"}, old),
        ({key: record[key] for key in record.keys() - {"schema"}}, old),
        ({key: record[key] for key in record.keys() - {"task"}}, damaged),
        (record | {"surplus": 1}, damaged),
        (record | {"held_out_texts": ["aa"]}, "both calibration and held-out"),
    ):
        path.write_text(json.dumps(values), "utf-8")
        with pytest.raises(ArtifactError, match=message):
            Calibration(folder)


@pytest.mark.parametrize("file", FILES)
def test_what_is_missing_or_truncated_or_of_another_size_is_refused_by_name(folder: Path, file: str) -> None:
    path, damaged = folder / file, file.replace(".", r"\.") + ": damaged"
    content = path.read_bytes()
    others = {
        "layer-00001.safetensors": ("o_proj.covariance", torch.zeros(20)),
        TOKENS: ("lengths", torch.tensor([3, 1, 1], dtype=torch.int32)),
    }
    if file in others:
        name, values = others[file]
        save_file(load_file(path) | {name: values}, path)
        with pytest.raises(ArtifactError, match=damaged):
            read_all(folder)
    for size in (0, -8):
        path.write_bytes(content[:size])
        with pytest.raises(ArtifactError, match=damaged if path.suffix == ".safetensors" else "calibration"):
            read_all(folder)
    path.unlink()
    if file != FILES[-1]:  # the first four tell a calibration
        with pytest.raises(ArtifactError, match="no calibration"):
            Calibration(folder)


#: Of different sizes, and with one text in common.
TASKS = {"one": [[5, 6, 7], *random_token_ids(4, seed=1)], "two": [[5, 6, 7], *random_token_ids(15, seed=2)]}
WEIGHTS = {"one": 3.0, "two": 0.5}


def test_moments_and_covariances_are_those_of_the_weighted_tokens(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model")
    mixture = mixture_of(source, tmp_path / "statistics", TASKS, **WEIGHTS)
    model = transformers_model(tmp_path / "model")
    tokens = {task: sum(map(len, texts)) for task, texts in TASKS.items()}
    seen = {task: projection_inputs(model, texts) for task, texts in TASKS.items()}
    of_tasks = [torch.full((tokens[task], 1), WEIGHTS[task] / tokens[task], dtype=torch.float64) for task in TASKS]
    weights = torch.cat(of_tasks) / sum(WEIGHTS.values())
    assert mixture.num_tokens == sum(tokens.values())
    for index in range(3):
        for output in OUTPUTS:
            values = torch.cat([seen[task][index][output] for task in TASKS])
            mean = (weights * values).sum(0)
            expected = ((values - mean) * weights).T @ (values - mean)
            sublayer, spread = mixture.layer(index)[output], expected.diagonal().sqrt()
            assert sublayer.count == mixture.num_tokens
            assert ((sublayer.mean - mean).abs() <= 1e-5 * spread).all()
            torch.testing.assert_close(sublayer.variance, expected.diagonal(), rtol=2e-5, atol=0.0)
            covariance = mixture.covariance(index, output)
            assert ((covariance - expected).abs() <= 1e-5 * torch.outer(spread, spread)).all()
    one, two = (mixture.calibrations[task].sensitivity() for task in TASKS)
    torch.testing.assert_close(mixture.sensitivity(), (3.0 * one + 0.5 * two) / 3.5, rtol=1e-12, atol=0.0)
    assert not torch.allclose(one, two)
    # the first tokens keep the weights of the tasks: 12 of the first one, 2 of the second
    few = mixture.of_first_tokens(14)
    texts = few.token_ids()
    assert few.num_tokens == sum(len(ids) for ids, _ in texts) == 14
    assert texts[-1][0] == TASKS["two"][0][:2]
    assert [token for ids, _ in texts[:-1] for token in ids] == [token for ids in TASKS["one"] for token in ids][:12]
    assert sum(len(ids) * each for ids, each in texts[:-1]) == pytest.approx(3.0 / 3.5)
    assert few.effective_tokens < mixture.effective_tokens
    assert mixture.of_first_tokens(10**6).token_ids() == mixture.token_ids()


def test_fresh_texts_count_less(tmp_path: Path, random_calibration: Callable[..., Calibration]) -> None:
    source = micro_source(tmp_path / "model")
    calibrations = {task: random_calibration(source, task, seed) for seed, task in enumerate(TASKS)}
    mixture, fresh = TaskMixture("mix", WEIGHTS, calibrations), [[1, 2, 3], [4, 5]]
    more = mixture.with_fresh({"two": fresh})
    found = more.token_ids()
    assert [ids for ids, _ in found] == [ids for ids, _ in mixture.token_ids()] + fresh
    assert more.num_tokens == mixture.num_tokens + 5
    assert sum(len(ids) * each for ids, each in found) == pytest.approx(1.0)
    assert sum(len(ids) * each**2 for ids, each in found) == pytest.approx(1.0 / more.effective_tokens)
    assert found[-1][1] == pytest.approx(FRESH_WEIGHT * found[-3][1])
    number = calibrations["two"].record.num_tokens
    for weights, tokens in (((1.0, 0.0), 1.0), ((1.0, 1.0), 2.0), ((3.0, 1.0), 1.6), ((1.0, 1e-6), 1.0)):
        some = {task: weight for task, weight in zip(TASKS, weights, strict=True) if weight}
        assert TaskMixture("mix", some, calibrations).effective_tokens == pytest.approx(tokens * number, rel=1e-5)
    calibrations["two"] = random_calibration(micro_source(tmp_path / "two", "qwen2"), "two")
    with pytest.raises(InputError, match=r"'mix'.* different models"):
        _ = TaskMixture("mix", WEIGHTS, calibrations).effective_tokens


MANY = 500
BATCHINGS = ([MANY], [1] * MANY, [7, 100, 1, 192, 200])


def some_values(channels: int = 7, seed: int = 0) -> torch.Tensor:
    """Channels that depend on each other; the second has a mean of 1000 and a spread of about 1."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator) / channels**0.5
    values = torch.randn(MANY, channels, generator=generator) @ mixing + torch.randn(channels, generator=generator)
    values[:, 1] += 1000.0
    return values


def some_targets(values: torch.Tensor, outputs: int = 4) -> torch.Tensor:
    """They depend on the values, and have means of their own."""
    generator = torch.Generator().manual_seed(9)
    weight = torch.randn(outputs, values.shape[1], generator=generator)
    noise = torch.randn(len(values), outputs, generator=generator)
    return (values - values.mean(0)) @ weight.T + noise + torch.linspace(-100.0, 100.0, outputs)


def some_weights() -> torch.Tensor:
    return 0.01 + 3.0 * torch.rand(MANY, generator=torch.Generator().manual_seed(4))


def two_pass(a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Covariance of the columns of a with those of b."""
    p = torch.ones(len(a), dtype=torch.float64) if weights is None else weights.double()
    p = (p / p.sum()).unsqueeze(1)
    a, b = a.double(), b.double()
    return ((a - (p * a).sum(0)) * p).T @ (b - (p * b).sum(0))


def streamed(
    values: torch.Tensor, batches: list[int], targets: torch.Tensor | None = None, weights: torch.Tensor | None = None
) -> CovarianceAccumulator:
    """What is given stays as it is."""
    sums = CovarianceAccumulator()
    given = [values, targets, weights]
    before = [None if one is None else one.clone() for one in given]
    for part in torch.arange(len(values)).split(batches):
        rows = slice(int(part[0]), int(part[-1]) + 1)
        sums.update(*(None if one is None else one[rows] for one in given))  # type: ignore[arg-type]
    assert all(one is None or torch.equal(one, other) for one, other in zip(given, before, strict=True))  # type: ignore[arg-type]
    return sums


def assert_covariance(actual: torch.Tensor, expected: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Within a small part of the product of the standard deviations."""
    assert actual.dtype == torch.float64
    scale = torch.outer(a.double().std(0), b.double().std(0)) + 1e-6
    assert float(((actual - expected).abs() / scale).max()) < 2e-6


@pytest.mark.parametrize(("batches", "block"), [*((each, None) for each in BATCHINGS), ([MANY], 1), ([MANY], 64)])
@pytest.mark.parametrize("weighted", [False, True])
def test_covariances_and_means_are_those_of_two_passes(
    batches: list[int], block: int | None, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block or module._BLOCK)
    values = some_values()
    targets, weights = some_targets(values), some_weights() if weighted else None
    values[:, 2] = 3.7
    sums = streamed(values, batches, targets, weights)
    covariance = sums.covariance()
    assert not covariance[2].any()  # of what never varies
    assert_covariance(covariance, two_pass(values, values, weights), values, values)
    assert_covariance(sums.cross_covariance(), two_pass(targets, values, weights), targets, values)
    p = torch.ones(MANY, dtype=torch.float64) if weights is None else weights.double()
    assert sums.weight == pytest.approx(float(p.sum()))
    for mean, all_of_it in ((sums.mean(), values), (sums.target_mean(), targets)):
        expected = (all_of_it.double() * (p / p.sum()).unsqueeze(1)).sum(0)
        torch.testing.assert_close(mean, expected, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("channels", [383, 384, 385, 900])
def test_wide_inputs_are_computed_strip_by_strip_and_packed_row_by_row(channels: int) -> None:
    values = some_values(channels)
    covariance = streamed(values, [MANY]).covariance()
    assert_covariance(covariance, two_pass(values, values), values, values)
    assert torch.equal(covariance, covariance.T)
    packed, unpacked = pack_symmetric(covariance), torch.zeros(channels, channels, dtype=torch.float64)
    assert torch.equal(packed, covariance[torch.ones(channels, channels).triu().bool()].float())
    add_packed(unpacked, packed, 1.0)
    assert torch.equal(mirrored(unpacked), covariance.float().double())


def activations() -> torch.Tensor:
    """Channels of many kinds: plain, mean 1e4 and 1e6 times the spread, constant, zero, tiny, huge, an outlier."""
    values = torch.randn(MANY, 8, generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([1.0, 0.25, 0.0, 0.0, 1e-6, 1e4, 1.0, 0.25])
    values = values * factors + torch.tensor([0.0, 2500.0, 3.7, 0.0, 0.0, -3e4, 0.0, 250000.0])
    values[0, 6] = 1e4
    return values


@pytest.mark.parametrize("batches", [*BATCHINGS, [0, MANY - 1, 1, 0]], ids=len)
def test_moments_are_those_of_two_passes_for_any_batches_and_order(batches: list[int]) -> None:
    for values in (activations(), activations()[torch.randperm(MANY, generator=torch.Generator().manual_seed(1))]):
        accumulator, given = MomentAccumulator(), values.clone()
        with pytest.raises(ValueError, match="at least one token"):
            accumulator.result()
        for batch in given.split(batches):
            accumulator.update(batch)
        assert torch.equal(given, values)
        moments, exact = accumulator.result(), values.double()
        assert moments.count == MANY
        torch.testing.assert_close(moments.mean, exact.mean(0), rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(moments.variance, exact.var(0, correction=0), rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(moments.mean_square, exact.square().mean(0), rtol=1e-6, atol=1e-12)
