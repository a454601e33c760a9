"""Faults planted in good artifacts, each stopped by `seap-export validate` with the exit code that fits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from planted import folders
from planted.artifacts import BASES
from planted.editing import Artifact
from planted.fault import Fault, recorded
from planted.graphs import floats, rounded
from support.editing import edit_json, edit_weights
from support.exports import tree
from support.product import read_manifest

from converters import comparison
from seap_export.cli import main

pytestmark = pytest.mark.release
Copies = Callable[[str], Artifact]
FAULTS: tuple[Fault, ...] = (*floats.FAULTS, *rounded.FAULTS, *folders.FAULTS)
NUMERIC: tuple[Fault, ...] = tuple(fault for fault in FAULTS if fault.is_numeric)
#: Those that `seap-export validate` does not stop, or not with the code or the layer that is right, and why.
MISSED: Mapping[str, str] = {
    "two ids of both swapped": "only the dense model's own tokenizer could tell",
    "plan of another layout": "both layouts may have the same shapes",
    "plan keeps other neurons": "only the dense model's own weights could tell",
    "rows of the table shifted": "the router's accuracy may differ by a quarter from what router.json says",
}


def validate(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["validate", str(path), "--threads", "1", *options])


@pytest.mark.parametrize("name", BASES)
def test_a_good_artifact_passes(good: Copies, name: str) -> None:
    result = validate(good(name).out, "--bisect")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("name", BASES)
def test_so_does_one_whose_json_says_the_same_in_other_bytes(good: Copies, copied: Copies, name: str) -> None:
    """What is stopped below is the fault, not the way in which it is planted."""
    artifact = copied(name)
    recorded(_rewrite)(artifact)
    changed = _changed(good(name), artifact)
    assert {f"{artifact.name}/{path}" for path in ("hf/config.json", "plan.json")} <= changed
    result = validate(artifact.out)
    assert result.exit_code == 0, result.stderr


@pytest.mark.planted("onnx")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id.replace(" ", "_"))
def test_a_fault_is_stopped(
    good: Copies, copied: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    artifact, report = copied(fault.base), tmp_path / "report.json"
    if fault.is_numeric:
        _leave_to_numbers(monkeypatch)
    fault.plant(artifact)
    changed = _changed(good(fault.base), artifact)
    assert changed
    if fault.recorded:
        assert changed - {"manifest.json"}, "nothing was planted"
        _assert_hashes_agree(artifact)

    bisect = ("--bisect",) if fault.is_bisected else ()
    options = (option.format(dense=good(fault.base).out.parent / "m") for option in fault.options)
    path = artifact.variant if fault.is_numeric else artifact.out
    result = validate(path, "--out", str(report), *bisect, *options)

    wrong = list(_wrong(fault, artifact, result, report))
    if fault.id in MISSED:
        assert wrong, "it is stopped: take it out of MISSED"
        pytest.xfail(MISSED[fault.id])
    assert wrong == [], result.output


def _leave_to_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No graph is compared with the one that its model gives, which would find most of what results must tell."""
    monkeypatch.setattr(comparison, "other_form", lambda *_: iter(()))


def _wrong(fault: Fault, artifact: Artifact, result: Result, report: Path) -> Iterator[str]:
    """What is wrong with the answer to a fault."""
    if result.exit_code not in fault.codes:
        yield f"exit code {result.exit_code}, not of {sorted(fault.codes)}"
        return
    *before, last = result.stderr.splitlines()
    if not last.startswith("Error: ") or any(line.startswith("Error: ") for line in before):
        yield f"not one line: {result.stderr}"
    if "internal error" in last or "Traceback" in result.output:
        yield f"not an answer: {last}"
    if fault.is_bisected:
        bisect = json.loads(report.read_text("utf-8"))["variants"][artifact.name]["bisect"]
        if bisect is None or bisect["first"] is None or bisect["first"]["layer"] != fault.layer:
            yield f"bisected to {bisect and bisect['first']}, not to layer {fault.layer}"


def _rewrite(artifact: Artifact) -> None:
    edit_weights(artifact.hf, lambda tensors: None)
    for name in ("plan.json", "hf/config.json", "hf/tokenizer.json", "onnx/tokenizer.json", "onnx/genai_config.json"):
        edit_json(artifact.variant / name, lambda values: None)


def _changed(good: Artifact, planted: Artifact) -> set[str]:
    """The files that are not as they were."""
    return {name for name, _ in tree(good.out, ()).items() ^ tree(planted.out, ()).items()}


def _assert_hashes_agree(artifact: Artifact) -> None:
    manifest = read_manifest(artifact.out)
    assert [line for step in manifest.steps for line in manifest.damages(artifact.out, step)] == []
