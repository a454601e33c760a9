"""What models say of themselves, in each form, and what is not believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.models import write_micro_model

from seap_export.model.sources.metadata import ModelMetadata, model_metadata
from seap_export.model.sources.open import open_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_micro_model(tmp_path / "m", model_type="llama")


def test_a_model_from_the_hub_is_the_base_itself(folder: Path) -> None:
    (folder / "README.md").write_text("---\nbase_model: owner/other\nlicense: mit\n---\n")
    source = replace(open_source(str(folder)), hub_id="owner/model")
    assert model_metadata(source) == ModelMetadata(("owner/model",), "mit")


@pytest.mark.parametrize(
    "readme",
    ["", "no front matter", "---\nlicense: [\n---\n", "---\n- license\n---\n", "---\nlicense: {a: 1}\ntags: 3\n---\n"],
)
def test_what_is_malformed_is_not_said(folder: Path, readme: str) -> None:
    (folder / "README.md").write_text(readme)
    assert model_metadata(open_source(str(folder))) == ModelMetadata()


def test_values_become_lines(folder: Path) -> None:
    tags = f"[x, x, {'y' * 300}, 4]"
    values = f"license: |\n  a\n  b\nlanguage: en\ntags: {tags}\nbase_model: [o/a, ../../b, o/c]"
    (folder / "README.md").write_text(f"---\n{values}\n---\n")
    said = model_metadata(open_source(str(folder)))
    assert said == ModelMetadata(("o/a", "o/c"), "a b", languages=("en",), tags=("x",))


def test_licences_are_passed_on_but_no_links_to_other_places(folder: Path, tmp_path: Path) -> None:
    (folder / "LICENSE.txt").write_bytes(b"a")
    (folder / "Notice").write_bytes(b"b")
    (folder / "LICENSE-old").write_bytes(b"x" * (2**20 + 1))
    (tmp_path / "secret").write_bytes(b"c")
    (folder / "COPYING").symlink_to(tmp_path / "secret")
    assert model_metadata(open_source(str(folder))).licence_files == {"LICENSE.txt": b"a", "Notice": b"b"}


def test_a_gguf_file_says_it_in_its_metadata(smollm2_gguf: Path) -> None:
    assert model_metadata(open_source(str(smollm2_gguf))) == ModelMetadata(license="apache-2.0", languages=("en",))
