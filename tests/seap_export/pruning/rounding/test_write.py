"""A rounded model: on the grid, nearer to the model in floats than the nearest levels, and the same however made.

Its note tells another origin, proves weights, and makes the model again.
"""

from __future__ import annotations

import copy
import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.calibration import (
    TOKEN_IDS,
    Killed,
    compute_in_memory,
    compute_on_disk,
    die_at,
    file_contents,
    mixture_of,
)
from support.editing import edit_weights, set_json
from support.models import micro_source, put_on_grid, rounded_copy, transformers_model
from support.plans import micro_plan
from support.product import (
    WAYS,
    Compute,
    SafetensorsReader,
    SafetensorsWriter,
    TaskMixture,
    Vocabulary,
    write_shrunk_model,
)
from support.stand_ins.cuda import pretend_cuda

from converters.onnx.weights.quantize import dequantize, quantize
from seap_export.errors import ArtifactError, InputError
from seap_export.model.sources.written import folder_source
from seap_export.pruning.rounding import write as write_module
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.likeness import unlike_tensors
from seap_export.pruning.rounding.note import RoundingNote, read_note
from seap_export.pruning.rounding.restore import restore_rounded_model
from seap_export.pruning.rounding.write import write_rounded_model

HOW = BlockQuantization(4)
SHARED = BlockQuantization(4, average=3.25, ways=WAYS)
Made = tuple[Path, TaskMixture]
Make = Callable[[str], Made]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """The pruned model folder and the statistics of a variation."""

    @cache
    def make(variation: str) -> Made:
        work = tmp_path_factory.mktemp(variation)
        source = micro_source(work / "model", variation)
        statistics = mixture_of(source, work / "statistics", {"boolq": TOKEN_IDS})
        (work / "hf").mkdir()
        plan = micro_plan(source, "sequential")
        write_shrunk_model(source, plan, statistics, work / "hf", compute=compute_in_memory())
        return work / "hf", statistics

    return make


def rounded(made: Made, folder: Path, how: BlockQuantization = HOW, compute: Compute | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    write_rounded_model(made[0], made[1], how, folder, compute=compute or compute_in_memory())
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    reader = SafetensorsReader(folder)
    return reader.read(reader.shapes())


@torch.no_grad()
def divergence(made: Made, weights: dict[str, torch.Tensor], texts: list[list[int]]) -> float:
    """Mean KL from the model in floats, in transformers' own class."""
    exact, other = transformers_model(made[0]), transformers_model(made[0])
    other.load_state_dict(weights, strict=False)
    total = 0.0
    for ids in texts:
        wanted, logits = (model(torch.tensor([ids])).logits.double().log_softmax(-1) for model in (exact, other))
        total += float((wanted.exp() * (wanted - logits)).sum())
    return total / sum(map(len, texts))


@pytest.mark.parametrize(
    ("variation", "how"),
    [
        ("llama-biases", BlockQuantization(4, symmetric=False)),
        ("gemma2-all", HOW),
        ("phi3-all", BlockQuantization(4, embeddings=False)),
        ("llama-gqa", BlockQuantization(4, 32, embeddings=False, whole_blocks=True)),
        ("llama-gqa", SHARED),
    ],
)
def test_it_is_on_the_grid_and_nearer(made: Make, tmp_path: Path, variation: str, how: BlockQuantization) -> None:
    made_here = made(variation)
    folder = rounded(made_here, tmp_path / "rounded", how)
    on_levels, exact, note = tensors(folder), tensors(made_here[0]), read_note(folder)
    assert note is not None
    plain, untaken = dict(exact), 0
    for name, tensor in exact.items():
        if tensor.dim() == 2 and (how.embeddings or not ("embed" in name or "lm_head" in name)):
            if how.takes(tensor.shape[1]):
                grid = note.grid.of(name)
                plain[name], again = (
                    dequantize(quantize(one, grid), grid, tensor.shape[1]) for one in (tensor, on_levels[name])
                )
                assert torch.equal(again, on_levels[name]), name
            else:
                untaken += 1
                assert torch.equal(on_levels[name], tensor), name
    assert bool(untaken) is how.whole_blocks
    assert replace(note.grid, others=(), ways=how.ways) == how
    assert bool(note.grid.others) is bool(how.ways)
    assert read_note(made_here[0]) is None
    assert {path.name for path in folder.iterdir()} == {
        *(path.name for path in made_here[0].iterdir()),
        "rounding.json",
    }
    assert not list(note.origin_differences(made_here[0]))
    texts = [list(text) for text in TOKEN_IDS]
    assert divergence(made_here, on_levels, texts) < 0.8 * divergence(made_here, plain, texts)


def test_the_same_bytes_on_a_gpu_and_with_streams_on_disk(made: Make, tmp_path: Path) -> None:
    made_here = made("gemma2-all")
    expected = file_contents(rounded(made_here, tmp_path / "here"))
    on_disk = rounded(made_here, tmp_path / "disk", compute=compute_on_disk(folder_source(made_here[0])))
    assert file_contents(on_disk) == expected
    with pretend_cuda() as device:
        there = Compute(device, device_memory=2**62, batch_tokens=compute_in_memory().batch_tokens)
        assert file_contents(rounded(made_here, tmp_path / "there", compute=there)) == expected


@pytest.mark.parametrize(("how", "step"), [(HOW, 7), (SHARED, 23)])
def test_it_goes_on_where_it_was_interrupted(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: BlockQuantization, step: int
) -> None:
    made_here = made("llama-biases")
    expected = file_contents(rounded(made_here, tmp_path / "whole", how))
    for call in itertools.count(step=step):
        folder, layers = tmp_path / str(call), list[int]()
        with monkeypatch.context() as patch:
            die_at(patch, SafetensorsWriter, "write", call)
            try:
                rounded(made_here, folder, how)
                break
            except Killed:
                pass
        with monkeypatch.context() as patch:  # the bits that were chosen are not chosen again
            die_at(patch, write_module, "shared_out", 0)
            write_rounded_model(*made_here, how, folder, layers.append, compute=compute_in_memory())
        assert layers == [0, 1, 2]
        assert file_contents(folder) == expected
    assert call > 20


O_PROJ, UP_PROJ, NORM = (
    f"model.layers.1.{part}.weight" for part in ("self_attn.o_proj", "mlp.up_proj", "input_layernorm")
)
HEAD = "lm_head.weight"
Damage = Callable[[dict[str, torch.Tensor]], object]


def _other_row(tensors: dict[str, torch.Tensor]) -> None:
    tensors[UP_PROJ][3] = tensors[UP_PROJ][4]


DAMAGES: dict[str, tuple[str, Damage]] = {
    "negated": (O_PROJ, lambda tensors: tensors[O_PROJ].neg_()),
    "columns permuted": (O_PROJ, lambda tensors: tensors[O_PROJ].copy_(tensors[O_PROJ].roll(1, 1))),
    "doubled": (UP_PROJ, lambda tensors: tensors[UP_PROJ].mul_(2)),
    "another row": (UP_PROJ, _other_row),
    "NaN": (UP_PROJ, lambda tensors: tensors[UP_PROJ][5, 6].fill_(torch.nan)),
    "rows of a table shifted": (HEAD, lambda tensors: tensors[HEAD].copy_(tensors[HEAD].roll(1, 0))),
    "a gain": (NORM, lambda tensors: tensors[NORM][3].neg_()),
}


@pytest.mark.parametrize("how", [BlockQuantization(2), HOW, BlockQuantization(4, rows=True)], ids=lambda how: how.name)
def test_what_rounding_cannot_make_is_named(made: Make, tmp_path: Path, how: BlockQuantization) -> None:
    made_here = made("llama-biases")
    folder = rounded(made_here, tmp_path, how)
    assert list(unlike_tensors(made_here[0], folder, how)) == []
    good = (folder / "model.safetensors").read_bytes()
    missed = {"doubled", "another row"} if how.bits == 2 else set()
    for what, (name, damage) in DAMAGES.items():
        edit_weights(folder, damage)
        named = [line.name for line in unlike_tensors(made_here[0], folder, how)]
        assert (name in named) is (what not in missed), what
        (folder / "model.safetensors").write_bytes(good)


def test_a_sublayer_beside_another_is_fitted_to_what_it_reads(made: Make, tmp_path: Path) -> None:
    """The MLP of a first layer reads the embeddings, whatever attention adds to them."""
    folder, statistics = made("cohere-all")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    edit_weights(other, lambda held: held["model.layers.0.self_attn.o_proj.weight"].mul_(2))
    one, two = (
        tensors(rounded((model, statistics), tmp_path / name, BlockQuantization(4, embeddings=False)))
        for name, model in (("one", folder), ("two", other))
    )
    for projection in ("gate_proj", "up_proj"):
        name = f"model.layers.0.mlp.{projection}.weight"
        assert torch.equal(one[name], two[name])


def test_a_cut_vocabulary_is_rounded_with_its_own_ids_and_another_is_refused(made: Make, tmp_path: Path) -> None:
    (whole, statistics), renumbered = made("llama-gqa"), tmp_path / "renumbered"
    shutil.copytree(whole, renumbered)
    kept = Vocabulary(tuple(range(1, 96)), 96)  # without the token 0, which some texts have
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    edit_weights(renumbered, lambda held: held.update({name: held[name][1:].contiguous() for name in tables}))
    set_json(renumbered / "config.json", vocab_size=95)
    shifted = [([token - 1 for token in ids if token], weight) for ids, weight in statistics.token_ids()]
    by_hand = copy.copy(statistics)
    by_hand.token_ids = lambda: [text for text in shifted if text[0]]  # type: ignore[method-assign]
    outs = [tmp_path / "by-vocabulary", tmp_path / "by-hand"]
    for out, given, vocabulary in zip(outs, (statistics, by_hand), (kept, None), strict=True):
        out.mkdir()
        write_rounded_model(renumbered, given, HOW, out, compute=compute_in_memory(), vocabulary=vocabulary)
    assert file_contents(outs[0]) == file_contents(outs[1])
    larger = micro_source(tmp_path / "model", "llama-gqa", vocab_size=97)
    of_larger = mixture_of(larger, tmp_path / "statistics", {"boolq": [*TOKEN_IDS, [5, 96]]})
    with pytest.raises(InputError, match="token id 96, the model a vocabulary of 96; give the calibration"):
        write_rounded_model(whole, of_larger, HOW, tmp_path)


UNTABLED = BlockQuantization(4, embeddings=False)
BIAS = "model.layers.1.self_attn.v_proj.bias"
WEIGHT = "model.layers.1.self_attn.v_proj.weight"


@pytest.fixture
def noted(tmp_path: Path) -> tuple[Path, Path]:
    """A model folder, and one of the same model on the grid, with a bias that is fitted to it, and the note."""
    micro_source(tmp_path / "hf", "llama-biases")
    shutil.copytree(tmp_path / "hf", tmp_path / "rounded")
    put_on_grid(tmp_path / "rounded", UNTABLED)
    edit_weights(tmp_path / "rounded", lambda tensors: tensors.update({BIAS: tensors[BIAS] * 1.1}))
    RoundingNote.of(tmp_path / "hf", tmp_path / "rounded", UNTABLED).write(tmp_path / "rounded")
    return tmp_path / "hf", tmp_path / "rounded"


def test_it_is_read_as_it_was_written_and_a_damaged_one_is_refused(noted: tuple[Path, Path]) -> None:
    note = read_note(noted[1])
    assert note == RoundingNote.of(*noted, UNTABLED)
    assert note.grid == UNTABLED
    assert note.dtype == torch.float32
    assert BIAS in note.rounded
    assert not any("norm" in name or "embed" in name for name in note.rounded)
    assert read_note(noted[0]) is None
    file = noted[1] / "rounding.json"
    written = json.loads(file.read_text("utf-8"))
    changes = ({"schema": "seap-export/rounding/1"}, {"grid": {"bits": 7}}, {"dtype": "int8"})
    for text in (*(json.dumps(written | change) for change in changes), "{}", "[]", "not JSON"):
        file.write_text(text, "utf-8")
        with pytest.raises(ArtifactError, match=r"rounding\.json"):
            read_note(noted[1])


@pytest.mark.parametrize("variation", ["llama-biases", "phi3-all", "gemma2-all"])
def test_a_rounded_model_is_made_again_from_stored_weights(tmp_path: Path, variation: str) -> None:
    hf, rounded, again = (tmp_path / name for name in ("hf", "rounded", "again"))
    micro_source(hf, variation, "bfloat16")
    note = rounded_copy(hf, rounded, BlockQuantization(4))
    again.mkdir()
    assert restore_rounded_model(hf, SafetensorsReader(rounded).read, note, again) == []
    wanted, remade = (load_file(folder / "model.safetensors") for folder in (rounded, again))
    assert wanted.keys() == remade.keys()
    assert all(remade[name].equal(tensor) for name, tensor in wanted.items())
    for name in ("config.json", "rounding.json"):
        assert (rounded / name).read_bytes() == (again / name).read_bytes()
    edit_weights(hf, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(InputError, match=r"model\.norm\.weight"):
        restore_rounded_model(hf, lambda names: {}, note, tmp_path)


def test_what_is_not_the_model_that_was_rounded_is_named(noted: tuple[Path, Path]) -> None:
    hf, note = noted[0], read_note(noted[1])
    assert note is not None
    assert not list(note.origin_differences(hf))
    changed = load_file(hf / "model.safetensors")
    changed[WEIGHT][3, 5] *= -1
    changed["more"] = torch.zeros(3)
    save_file(changed, hf / "model.safetensors", {"format": "pt"})
    set_json(hf / "config.json", rms_norm_eps=1e-3, dtype="bfloat16")
    lines = list(note.origin_differences(hf))
    assert [line.partition(" ")[0] for line in lines[:2]] == [f"'{WEIGHT}'", "'more'"]
    assert len(lines) == 3
    assert "rms_norm_eps" in lines[2]


def test_weights_are_proven_exactly_and_vectors_in_16_bits_too(noted: tuple[Path, Path]) -> None:
    note, tensors = read_note(noted[1]), load_file(noted[1] / "model.safetensors")
    assert note is not None
    weight, bias = tensors[WEIGHT], tensors[BIAS]
    assert note.proves(WEIGHT, weight)
    assert note.proves(WEIGHT, torch.where(weight == 0, -0.0, weight))
    off = weight.clone()
    off[2, 3] += 1e-6
    assert not note.proves(WEIGHT, off)
    assert note.proves(BIAS, bias)
    assert note.proves(BIAS, bias.half().float())
    assert note.proves(BIAS, bias.bfloat16().float())
    other = bias.half().float()
    other[1] += 2.0**-8
    assert not note.proves(BIAS, other)
