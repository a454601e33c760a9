"""Names in files that lead elsewhere: nothing outside the folder is read, hashed, written or removed."""

from __future__ import annotations

import hashlib
import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import pytest
from robustness.commands import ALL, tree
from support.editing import edit_json, list_again
from support.exports import Run
from support.product import open_source

ROUTES = (
    *("../secret", "../../work/secret", "a-0.2/../../secret", "a-0.2/hf/../../../secret", "ABSOLUTE", "a-0.2\0"),
    *("", "a-0.2//secret", "..\\secret", "a\nb", "./secret"),
)


@pytest.fixture
def secret(work: Path) -> Path:
    """A file beside the output folder."""
    (work / "secret").write_bytes(b"secret")
    return work / "secret"


def lead_out(done: Path, part: str, outside: str) -> None:
    """The hash is right, so that only the name can be what is refused."""
    entry = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}

    def change(values: dict[str, Any]) -> None:
        added = {"files": entry, "steps": "key", "variants": values["variants"]["a-0.2"], "tasks": {}}
        values[part][outside] = added[part]

    edit_json(done / "manifest.json", change)


def test_a_manifest_that_leads_out(run: Run, done: Path, secret: Path) -> None:
    sound = (done / "manifest.json").read_bytes()
    for part, name in product(("files", "steps", "variants", "tasks"), ROUTES):
        (done / "manifest.json").write_bytes(sound)
        lead_out(done, part, name.replace("ABSOLUTE", str(secret)))
        before = tree(secret.parent)
        for command in (("inspect", "out"), ALL):
            run(*command).refused(7, "out/manifest.json", "damaged", "--force")
        assert tree(secret.parent) == before, (part, name)


def test_force_makes_all_anew_and_touches_nothing_outside(run: Run, done: Path, secret: Path) -> None:
    lead_out(done, "files", str(secret))
    lead_out(done, "steps", "../secret")
    before = {path.name: tree(path) if path.is_dir() else path.read_bytes() for path in secret.parent.iterdir()}
    assert run(*ALL, "--force").code == 0
    now = {path.name: tree(path) if path.is_dir() else path.read_bytes() for path in secret.parent.iterdir()}
    assert {**now, "out": None} == {**before, "out": None}


FILES = ({"bytes": "6", "sha256": "0"}, {"bytes": 6, "sha256": 0}, {"bytes": 1e9, "sha256": ""}, [])
FIGURES = ({"bytes": {}}, {"parity": []}, {"parity": {"verdict": 1}}, {"achieved_ratio": "x"}, {"weights": None})
SOURCES = ({"name": 5}, {"name": "m"}, {"sha256": "00"})


def test_a_manifest_with_other_figures(run: Run, done: Path) -> None:
    sound = json.loads((done / "manifest.json").read_text("utf-8"))
    variants = [{}, *({**sound["variants"]["a-0.2"], **one} for one in FIGURES)]
    for change in (
        *({"files": {**sound["files"], "a-0.2/plan.json": entry}} for entry in FILES),
        *({"variants": {**sound["variants"], "a-0.2": variant}} for variant in variants),
        *({"source": source} for source in SOURCES),
    ):
        (done / "manifest.json").write_text(json.dumps({**sound, **change}), "utf-8")
        for command in (("inspect", "out"), ALL, ("validate", "out")):
            run(*command).refused(7, "out/manifest.json", "damaged")


def test_a_router_that_leads_out(run: Run, done: Path, secret: Path) -> None:
    shutil.copytree(done / "a-0.2", secret.parent / "elsewhere")
    for name in ROUTES[:-1]:
        outside = name.replace("ABSOLUTE", str(secret)).replace("secret", "elsewhere")
        variants = {"0.2": dict.fromkeys("ab", outside)}
        edit_json(done / "router" / "router.json", lambda values, new=variants: values["variants"].update(new))
        list_again(done / "router")
        command = ("route", "out", "the cat sat", "--ratio", "0.2", "--generate", "1")
        run(*command).refused(7, "out/router/router.json", "'variants'", "0.2")


def test_a_graph_whose_weights_lie_elsewhere(run: Run, done: Path, secret: Path) -> None:
    folder, outside = done / "a-0.2" / "onnx", secret.parent / "outside.data"
    for path in (outside, folder.parent / "model.onnx.data"):
        shutil.copyfile(folder / "model.onnx.data", path)
    (folder / "model.onnx.data").unlink()
    for name in ("../model.onnx.data", "../../../outside.data", str(outside)):
        graph = onnx.load(folder / "model.onnx", load_external_data=False)
        places = [
            item for tensor in graph.graph.initializer for item in tensor.external_data if item.key == "location"
        ]
        for item in places:
            item.value = name
        (folder / "model.onnx").write_bytes(graph.SerializeToString())
        list_again(done / "a-0.2")
        for command in (("generate", "out/a-0.2", "the cat"), ("validate", "out/a-0.2", "--check", "parity")):
            run(*command, "--quiet").refused(7, "out/a-0.2/onnx")


def test_a_tokenizer_file_that_links_out_of_the_folder_is_not_carried_into_artifacts(
    run: Run, work: Path, secret: Path
) -> None:
    for target in ("secret", "/etc/hostname", "m/../secret"):
        (work / "m" / "merges.txt").symlink_to(work / target)
        run("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out").refused(8, "m/merges.txt", "link")
        (work / "m" / "merges.txt").unlink()
    assert not (work / "out").exists()


def test_the_links_of_the_hub_s_cache_and_links_within_the_folder_are_followed(work: Path) -> None:
    """Those to weights lead anywhere."""
    snapshot = work / "models--owner--name" / "snapshots" / "main"
    blobs = snapshot.parents[1] / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for number, file in enumerate(sorted((work / "m").iterdir())):
        shutil.copyfile(file, blobs / f"{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    (work / "link").symlink_to(snapshot)
    (work / "m" / "tokenizer.json").rename(work / "m" / "real.json")
    (work / "m" / "tokenizer.json").symlink_to("real.json")
    shutil.move(work / "m" / "model.safetensors", work / "elsewhere")
    (work / "m" / "model.safetensors").symlink_to(work / "elsewhere")
    for folder in (snapshot, work / "link", work / "m"):
        (target := work / f"copy of {folder.name}").mkdir()
        open_source(str(folder)).write_tokenizer(target)
        assert (target / "tokenizer.json").read_bytes() == (snapshot / "tokenizer.json").read_bytes()
