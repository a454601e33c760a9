"""`push`, through the real huggingface_hub, to a stand-in of the hub that receives the files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants
from support.editing import edit_json, list_again
from support.exports import Outcome, run_here, tree
from support.stand_ins.hub import Hub, standing_hub

from seap_export import push
from seap_export.common.checksums import SUMS
from seap_export.errors import ArtifactError


@pytest.fixture(scope="module")
def once(place: Path, done_in: Callable[..., Outcome]) -> Path:
    """A folder with an export of two variants with their speed; not to be changed."""
    done_in(place, "export", "m", "--task", "a=a.jsonl", "--ratio", "0.2", "--ratio", "0.4", "--speed", "--out", "out")
    return place


@pytest.fixture
def work(home: Path) -> Path:
    return home / "out"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with standing_hub(monkeypatch) as standing:
        yield standing


def on_disk(variant: Path) -> dict[str, bytes]:
    """The files that a repository should hold, without the card and the list at its top."""
    return tree(variant / "hf", ("README.md", SUMS)) | {
        f"onnx/{name}": content for name, content in tree(variant / "onnx").items()
    }


def test_a_variant_becomes_a_private_repository_with_its_card(work: Path, hub: Hub) -> None:
    outcome = run_here("push", "out/a-0.4", "me/small", "--json")
    assert outcome.code == 0, outcome.err
    repository = hub.repositories["me/small"]
    assert repository.private
    card = repository.files["README.md"].decode()
    names = {"README.md", SUMS}
    assert {name: file for name, file in repository.files.items() if name not in names} == on_disk(work / "a-0.4")
    assert ModelCard(card).data.get("library_name") == "transformers"
    assert "## Speed" in card
    assert "## Speed" not in (work / "a-0.4" / "hf" / "README.md").read_text("utf-8")
    pushed = json.loads(outcome.out)["variants"]["a-0.4"]
    assert pushed["address"] == f"{hub.address}/me/small"
    assert pushed["bytes"] == sum(pushed["files"].values()) == sum(map(len, repository.files.values()))
    for name, content in repository.files.items() | {(".gitattributes", b""), (".cache/huggingface/lock", b"")}:
        Path("clone", name).parent.mkdir(parents=True, exist_ok=True)
        Path("clone", name).write_bytes(content)
    assert run_here("validate", "clone").code == 0
    edit_json(Path("clone/onnx/genai_config.json"), lambda values: None)
    run_here("validate", "clone", "--quiet").refused(7, "clone/onnx/genai_config.json", SUMS)
    run_here("generate", "clone", "the", "--quiet").refused(7, "clone/onnx/genai_config.json", SUMS)


def test_the_commands_of_the_guide(work: Path, hub: Hub) -> None:
    guide = (Path(__file__).parents[4] / "docs" / "guide.md").read_text("utf-8")
    commands = re.findall(r"^ {4}seap-export (push .*)$", guide, flags=re.MULTILINE)
    for command in commands:
        here = command.replace("pruned/maths-0.2", "out/a-0.2").replace("pruned", "out")
        assert run_here(*here.split()).code == 0
    assert {name: repository.private for name, repository in hub.repositories.items()} == {
        "me/maths-small": True,
        "me/maths-a-0.2": False,
        "me/maths-a-0.4": False,
    }


def test_a_dry_run_asks_nothing_of_the_hub(work: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    outcome = run_here("push", "out/a-0.4", "me/small", "--dry-run")
    assert outcome.code == 0, outcome.err
    names = {line.split()[0].removeprefix("me/small/") for line in outcome.out.splitlines()[1:-1]}
    assert names == {*on_disk(work / "a-0.4"), "README.md", SUMS}
    assert "not uploaded" in outcome.out.splitlines()[-1]
    assert hub.repositories == {}
    shutil.copytree("out/a-0.4", "alone")  # without texts to check it with
    run_here("push", "alone", "me/small", "--dry-run").refused(7, "validate alone --prompt-file", "push with --force")
    assert run_here("push", "alone", "me/small", "--dry-run", "--force").code == 0


def test_an_interrupted_push_goes_on(work: Path, hub: Hub) -> None:
    hub.most = 1
    run_here("push", "out/a-0.4", "me/small", "--quiet").refused(6, "me/small", "same command")
    assert hub.repositories["me/small"].files == {}
    hub.most = None
    assert run_here("push", "out/a-0.4", "me/small").code == 0
    assert len(hub.received) == len(set(hub.received)) == 3  # nothing was sent twice
    commits = hub.repositories["me/small"].commits
    assert run_here("push", "out/a-0.4", "me/small").code == 0
    assert hub.repositories["me/small"].commits == commits == 1
    hub.repositories["me/small"].private = False
    run_here("push", "out/a-0.4", "me/small", "--quiet").refused(2, "public", "--public")


def test_what_fails_the_checks_is_not_pushed(work: Path, hub: Hub) -> None:
    config = work / "a-0.4" / "hf" / "config.json"
    config.write_text(config.read_text("utf-8") + "\n", "utf-8")
    run_here("push", "out/a-0.4", "me/small", "--quiet").refused(7, "config.json", "SHA-256")
    with pytest.raises(ArtifactError, match=r"config\.json"):
        push("out", "me/small")
    assert hub.repositories == {}
    run_here("push", "out/a-0.4", "me/small", "--force", "--quiet").refused(7, "config.json", SUMS)
    list_again(work / "a-0.4")
    run_here("push", "out/a-0.4", "me/small", "--quiet").refused(7, "config.json", "manifest.json")
    assert run_here("push", "out/a-0.4", "me/small", "--force").code == 0
    assert hub.repositories["me/small"].files["config.json"].endswith(b"\n\n")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"token": None}, 6, ["no token", "HF_TOKEN"]),
        ({"token": "other"}, 6, ["token", "login"]),
        ({"endpoint": "http://127.0.0.1:9"}, 6, ["cannot be reached"]),
        ({"repository": "you/small"}, 2, ["you/small", "may not write", "OWNER"]),
        ({"repository": "me/large"}, 6, ["me/large", "Storage limit reached", "later"]),
        ({"path": "out/a-0.4/onnx"}, 2, ["out/a-0.4/onnx", "neither an export nor a variant"]),
    ],
)
def test_each_failure_is_one_line(
    work: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], code: int, words: list[str]
) -> None:
    if "token" in change:
        monkeypatch.setenv("HF_TOKEN", change["token"] or "")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", "nowhere")
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", "nowhere")
    if "endpoint" in change:
        monkeypatch.setattr(constants, "ENDPOINT", change["endpoint"])
    arguments = (change.get("path", "out/a-0.4"), change.get("repository", "me/small"))
    run_here("push", *arguments, "--force", "--quiet").refused(code, *words)
