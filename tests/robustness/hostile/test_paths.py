"""Names in files that lead elsewhere: nothing outside the folder is read, hashed, written or removed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from robustness.commands import ALL
from support.editing import edit_json, list_again
from support.exports import Outcome
from support.product import open_source

RunIt = Callable[..., Outcome]
ROUTES = {
    "up": "../secret",
    "far up": "../../work/secret",
    "up inside": "a-0.2/../../secret",
    "up behind a part": "a-0.2/hf/../../../secret",
    "absolute": "ABSOLUTE",
    "NUL": "a-0.2\0",
    "here": "./secret",
    "nothing": "",
    "a part that is nothing": "a-0.2//secret",
    "backslashes": "..\\secret",
    "a line": "a\nb",
}


@pytest.fixture
def secret(work: Path) -> Path:
    """A file beside the output folder."""
    (work / "secret").write_bytes(b"secret")
    return work / "secret"


def route(name: str, secret: Path) -> str:
    return ROUTES[name].replace("ABSOLUTE", str(secret))


def change(path: Path, **values: Any) -> None:
    """Adds to the objects of a JSON file."""
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(content | {key: content[key] | added for key, added in values.items()}))


PARTS = ("files", "steps", "variants", "tasks")


def lead_out(done: Path, part: str, outside: str) -> None:
    """The hash is right, so that only the name can be what is refused."""
    entry = {"bytes": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    variant = json.loads((done / "manifest.json").read_text("utf-8"))["variants"]["a-0.2"]
    added = {"files": entry, "steps": "key", "variants": variant, "tasks": {}}
    change(done / "manifest.json", **{part: {outside: added[part]}})


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ROUTES)
def test_a_manifest_that_leads_out(
    run: RunIt, done: Path, secret: Path, tree: Callable[[Path], Any], part: str, name: str
) -> None:
    lead_out(done, part, route(name, secret))
    before = tree(secret.parent)
    for command in (("inspect", "out"), ALL, ("plot", "out", "--out", "plots")):
        run(*command).refused(7, "out/manifest.json", "damaged", "--force")
    run("bench", "out", "--dense", "m").refused(7)
    assert tree(secret.parent) == before


@pytest.mark.parametrize(("part", "name"), [("files", "absolute"), ("steps", "up")])
def test_force_makes_all_anew_and_touches_nothing_outside(
    run: RunIt, done: Path, secret: Path, tree: Callable[[Path], Any], part: str, name: str
) -> None:
    lead_out(done, part, route(name, secret))
    before = tree(secret.parent)
    assert run(*ALL, "--force").code == 0
    now = tree(secret.parent)
    assert {name: now.get(name) for name in before if not str(name).startswith("out")} == {
        name: value for name, value in before.items() if not str(name).startswith("out")
    }


@pytest.mark.parametrize(
    "entry",
    [{"bytes": "6", "sha256": "0"}, {"bytes": 6, "sha256": 0}, {"bytes": 1e9, "sha256": ""}, {"bytes": 6}, []],
    ids=["size in words", "hash in numbers", "fraction", "no hash", "list"],
)
def test_a_manifest_with_other_figures(run: RunIt, done: Path, entry: Any) -> None:
    change(done / "manifest.json", files={"a-0.2/plan.json": entry})
    for command in (("inspect", "out"), ALL):
        run(*command).refused(7)


@pytest.mark.parametrize(
    "change",
    [
        lambda variant, values: variant.clear(),
        lambda variant, values: variant.update(bytes={}),
        lambda variant, values: variant.update(parity=[]),
        lambda variant, values: variant.update(parity={"verdict": 1}),
        lambda variant, values: variant.update(achieved_ratio="x"),
        lambda variant, values: variant.update(weights=None),
        lambda variant, values: values.update(source={"name": 5}),
        lambda variant, values: values.update(source={"name": "m"}),
        lambda variant, values: values.update(source={"sha256": "00"}),
    ],
)
def test_a_variant_or_a_source_with_other_figures(run: RunIt, done: Path, change: Callable[..., None]) -> None:
    edit_json(done / "manifest.json", lambda values: change(values["variants"]["a-0.2"], values))
    for command in (("inspect", "out"), ALL, ("validate", "out")):
        run(*command).refused(7, "out/manifest.json", "damaged")


@pytest.mark.parametrize("name", [name for name in ROUTES if name != "here"])
def test_a_router_that_leads_out(run: RunIt, done: Path, secret: Path, name: str) -> None:
    shutil.copytree(done / "a-0.2", secret.parent / "elsewhere")
    outside = route(name, secret).replace("secret", "elsewhere")
    variants = {"0.2": dict.fromkeys("ab", outside)}
    edit_json(done / "router" / "router.json", lambda values: values["variants"].update(variants))
    list_again(done / "router")
    command = ("route", "out", "the cat sat", "--ratio", "0.2", "--generate", "1")
    run(*command).refused(7, "out/router/router.json", "'variants'", "0.2")


@pytest.mark.parametrize("name", ["../model.onnx.data", "../../../work/outside.data", "ABSOLUTE"])
def test_a_graph_whose_weights_lie_elsewhere(run: RunIt, done: Path, secret: Path, name: str) -> None:
    folder = done / "a-0.2" / "onnx"
    outside = secret.parent / "outside.data"
    for path in (outside, folder.parent / "model.onnx.data"):
        shutil.copyfile(folder / "model.onnx.data", path)
    (folder / "model.onnx.data").unlink()
    graph = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in graph.graph.initializer:
        for item in tensor.external_data:
            if item.key == "location":
                item.value = name.replace("ABSOLUTE", str(outside))
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    for command in (
        ("generate", "out/a-0.2", "the cat"),
        ("validate", "out/a-0.2", "--check", "parity", "--prompts", "1"),
    ):
        run(*command, "--quiet").refused(7)


@pytest.mark.parametrize("target", ["secret", "/etc/hostname", "m/../secret"])
def test_a_tokenizer_file_that_links_out_of_the_folder_is_not_carried_into_artifacts(
    run: RunIt, work: Path, secret: Path, target: str
) -> None:
    (work / "m" / "merges.txt").symlink_to(work / target)
    command = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--out", "out", "--quiet")
    run(*command).refused(8, "m/merges.txt", "link")
    assert not (work / "out").exists()


def test_the_links_of_the_hub_s_cache_are_followed(work: Path) -> None:
    cache = work / "models--owner--name"
    snapshot = cache / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, file in enumerate(sorted((work / "m").iterdir())):
        file.rename(cache / "blobs" / f"{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    (work / "link").symlink_to(snapshot)
    for folder in (snapshot, work / "link"):
        target = work / folder.name / "copy" if folder is work else work / f"copy of {folder.name}"
        target.mkdir()
        open_source(str(folder)).write_tokenizer(target)
        assert (target / "tokenizer.json").read_bytes() == (snapshot / "tokenizer.json").read_bytes()


def test_links_within_the_folder_and_links_to_weights_elsewhere_are_followed(run: RunIt, work: Path) -> None:
    (work / "m" / "real.json").write_bytes((work / "m" / "tokenizer.json").read_bytes())
    (work / "m" / "tokenizer.json").unlink()
    (work / "m" / "tokenizer.json").symlink_to("real.json")
    shutil.move(work / "m" / "model.safetensors", work / "elsewhere")
    (work / "m" / "model.safetensors").symlink_to(work / "elsewhere")
    assert run("inspect", "m").code == 0
    assert open_source("m").files
