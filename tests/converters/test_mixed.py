"""Files whose matrices have bits of their own, which calibration texts choose, keep every level."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.calibration import TOKEN_IDS, compute_in_memory, mixture_of
from support.editing import edit_json
from support.formats import PARTS, torch_logits
from support.formats.written import complaints
from support.models import micro_source
from support.product import open_runtime, read_note, read_spec
from support.tokenizers import write_byte_level

from converters.format import Format
from converters.formats import FORMATS, format_class
from seap_export.errors import ArtifactError, UsageError
from seap_export.pruning.rounding.note import ROUNDING_FILE, RoundingNote
from seap_export.pruning.rounding.write import write_rounded_model


def _of_another_way(grid: dict[str, Any]) -> None:
    others = grid["others"]
    others[0][1:] = next(other[1:] for other in others if other[1:] != others[0][1:])


#: Each makes a note of a rounding one of other bits.
OTHER_BITS: tuple[Callable[[dict[str, Any]], object], ...] = (
    _of_another_way,
    lambda grid: grid["others"][0].__setitem__(slice(1, None), [3, 128, "usual"]),
    lambda grid: grid.update(splits_tables=True, tables=[["model.embed_tokens.weight", 128, "3" * 128]]),
    lambda grid: grid.update(average=9.25),
)
MIXING = [name for name in FORMATS if format_class(name).ways]


def written(folder: Path, format: Format, variation: str, **values: object) -> tuple[Path, Path, RoundingNote]:
    """A rounded micro model, its folder in a format, and its note."""
    source = micro_source(folder / "model", variation, **values)
    write_byte_level(folder / "model")
    statistics = mixture_of(source, folder / "statistics", {"boolq": TOKEN_IDS})
    grid, rounded, out = format.grid(source.spec), folder / "rounded", folder / "out"
    assert grid is not None
    rounded.mkdir()
    out.mkdir()
    write_rounded_model(folder / "model", statistics, grid, rounded, compute=compute_in_memory())
    format.write(rounded, out, lambda layer: None)
    shutil.copyfile(rounded / ROUNDING_FILE, out / ROUNDING_FILE)
    note = read_note(out)
    assert note is not None
    return rounded, out, note


@pytest.mark.parametrize(
    ("name", "variation", "average"),
    [
        ("onnx", "llama-biases", 3.3),
        ("gguf", "llama-biases", 5.2),
        ("gguf", "mixtral", 5.6),
        ("web", "phi3", 5.2),
        ("mlx", "lfm2", 4.1),
        pytest.param("openvino", "llama-biases", 5.2, marks=pytest.mark.needs("openvino")),
    ],
)
def test_every_weight_is_read_back_as_it_was_rounded_and_a_note_of_other_bits_found(
    name: str, variation: str, average: float, tmp_path: Path
) -> None:
    format = format_class(name)(f"mixed-{average:g}")
    rounded, out, note = written(tmp_path, format, variation)
    read = type(format).read(out)
    assert read.precision == format.precision
    # OpenVINO describes a micro model in more bytes of XML than its weights take.
    largest = max(path.stat().st_size for path in out.rglob("*") if path.suffix != ".xml")
    assert format.size(read_spec(rounded)) == pytest.approx(largest, rel=0.1 if name == "onnx" else 0.06)
    assert any("embed" in tensor_name for tensor_name in note.rounded)
    assert complaints(read, rounded, out) == []
    weights = format.weights(out, read_spec(rounded))
    for tensor_name in note.rounded:
        (tensor,) = weights.read([tensor_name]).values()
        assert note.proves(tensor_name, tensor), tensor_name
    used = {other[1:] for other in note.grid.others}
    assert len(used) > 1
    assert used <= {(way.bits, way.block_size, way.levels) for way in format.ways}

    content = (out / ROUNDING_FILE).read_bytes()
    for change in OTHER_BITS if name != "onnx" else ():
        (out / ROUNDING_FILE).write_bytes(content)
        edit_json(out / ROUNDING_FILE, lambda values, change=change: change(values["grid"]))
        found: list[str] = []
        try:
            read = type(format).read(out)
            found += complaints(read, rounded, out)
        except ArtifactError as error:
            found.append(str(error))
        assert found, change
        assert not any("\n" in line for line in found)


@pytest.mark.parametrize(
    ("name", "average", "needed"),
    [
        pytest.param(name, average, needed, marks=pytest.mark.needs(needed))
        for name, average, needed in (
            ("gguf", 5.2, "llama.cpp"),
            ("mlx", 4.1, "mlx-lm"),
            ("openvino", 5.2, "openvino"),
            ("web", 5.2, "transformers.js"),
        )
    ],
)
def test_its_runtime_computes_the_rounded_model(name: str, average: float, needed: str, tmp_path: Path) -> None:
    format = format_class(name)(f"mixed-{average:g}")
    rounded, out, note = written(tmp_path, format, "llama-gqa")
    assert len({other[1:] for other in note.grid.others}) > 1
    with closing(open_runtime(format.runtimes[0], out)) as runner:
        given = runner.prefill(PARTS[0][None], [len(PARTS[0])])[0, -1]
    expected = torch_logits(rounded)[0][-1]
    given, expected = given - given.mean(), expected - expected.mean()  # some give log-probabilities
    assert np.linalg.norm(given - expected) < 0.05 * np.linalg.norm(expected)  # they round what weights multiply


@pytest.mark.parametrize("name", MIXING)
def test_bits_that_a_format_cannot_have_are_refused_with_those_that_it_can(name: str) -> None:
    format = format_class(name)
    least, most = format(f"mixed-{6.0:g}").averages
    for average in (least, most):
        assert format(f"mixed-{average:g}").average == average
    for outside in (least - 0.25, most + 0.25):
        with pytest.raises(UsageError, match=f"{name}; give a number from {least:g} to {most:g}"):
            format(f"mixed-{outside:g}")
    with pytest.raises(UsageError, match="no number of bits"):
        format("mixed-many")
