"""SHA256SUMS: what a folder's list finds, alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from seap_export.common.checksums import SUMS, checksum_damages, listed_files, refuse_changed, write_checksums
from seap_export.errors import ArtifactError, InputError

Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, and a folder with a list of its own."""
    folder = tmp_path / "folder"
    for name in ("weights", "templates/tool.jinja", "inner/graph"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    write_checksums(folder / "inner")
    write_checksums(folder)
    kept = [line for line in (folder / SUMS).read_text().splitlines(keepends=True) if "inner/graph" not in line]
    (folder / SUMS).write_text("".join(kept))
    (tmp_path / "outside").write_text("weights")
    return folder


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.parent / target)


def _add(*names: str, text: str = "more") -> Change:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    return change


@pytest.mark.needs("sha256sum")
def test_it_is_what_sha256sum_reads_and_writes(folder: Path) -> None:
    for each in (folder, folder / "inner"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=each, check=True)
    written = subprocess.run("sha256sum -b ./weights inner/*", shell=True, cwd=folder, check=True, capture_output=True)
    (folder / SUMS).write_bytes(written.stdout)
    assert [line.split(" ")[0] for line in checksum_damages(folder)] == [f"{folder}/templates/tool.jinja"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_add("weights", text="WEIGHTS"), ["weights", "SHA-256", "copy"]),
        (_add("inner/graph", text="GRAPH"), ["inner/graph", "SHA-256"]),
        (lambda folder: (folder / "weights").unlink(), ["weights", "missing"]),
        (_add("templates/.env"), ["templates/.env", "not in SHA256SUMS", "remove"]),
        (_add("inner/more"), ["inner/more", "not in SHA256SUMS"]),
        (_add("more/graph", f"more/{SUMS}"), ["more/SHA256SUMS", "not in SHA256SUMS"]),
        (_add("__pycache__/a.pyc", "__pycache__/b.pyc"), ["__pycache__ is", "remove", "Python"]),
        (lambda folder: _link(folder / "weights", "../outside"), ["weights", "link", "hf download"]),
        (lambda folder: _link(folder / "more", ".."), ["more", "link"]),
        (_add(f"{'more/' * 40}graph"), [f"{'/more' * 17} is", "not in SHA256SUMS"]),
        (lambda folder: _link(folder / SUMS, "inner/SHA256SUMS"), [SUMS, "link"]),
        (lambda folder: (folder / SUMS).unlink(), [SUMS, "missing"]),
        (lambda folder: (folder / "inner" / SUMS).unlink(), [f"inner/{SUMS}", "missing"]),
        (lambda folder: (folder / SUMS).write_bytes(b"\xff"), [SUMS, "damaged"]),
        *((_add(SUMS, text=text), [SUMS, "damaged"]) for text in ("weights\n", f"{'0' * 64}  ../outside\n", "")),
    ],
)
def test_each_damage_is_a_line(folder: Path, change: Change, words: list[str]) -> None:
    change(folder)
    lines = checksum_damages(folder)
    assert len([line for line in lines if all(word in line for word in words)]) == 1, lines
    assert not any("\n" in line for line in lines)


def test_a_link_to_the_right_content_may_be_opened_but_not_shipped(folder: Path) -> None:
    """As in the cache of the hub's client."""
    (folder / "weights").rename(folder.with_name("blob"))
    _link(folder / "weights", "../blob")
    assert refuse_changed(folder)
    assert len(checksum_damages(folder)) == 1
    folder.with_name("blob").write_text("other")
    with pytest.raises(ArtifactError, match="weights"):
        refuse_changed(folder)


def test_a_folder_that_links_to_itself_is_not_entered(folder: Path) -> None:
    """With two links, a walk through them has no end."""
    _link(folder / "again", ".")
    with (folder / SUMS).open("a") as file:
        file.write(f"{'0' * 64}  again/{SUMS}\n")
    for follow_links in (False, True):
        lines = checksum_damages(folder, follow_links=follow_links)
        assert [line.split(" ")[:2] for line in lines] == [[f"{folder}/again", "is"], [f"{folder}/again/{SUMS}", "is"]]


def test_a_good_folder_has_no_damages_but_what_lies_apart_needs_a_list_of_its_own(folder: Path) -> None:
    assert not refuse_changed(folder / "templates")  # without a list
    _add(".gitattributes", ".git/config", ".cache/huggingface/lock", "inner/.DS_Store")(folder)
    assert checksum_damages(folder) == []
    assert refuse_changed(folder)
    names = ["SHA256SUMS", "inner/SHA256SUMS", "inner/graph", "templates/tool.jinja", "weights"]
    assert sorted(listed_files(folder)) == names
    _add("web/graph", "model.sig")(folder)
    (damage,) = checksum_damages(folder, ["web", "model.sig"])
    assert damage.startswith(f"{folder}/web/{SUMS} is")
    write_checksums(folder / "web")
    assert checksum_damages(folder, ["web", "model.sig"]) == []
    (folder / "a\nb").touch()
    with pytest.raises(InputError, match="rename"):
        write_checksums(folder)
