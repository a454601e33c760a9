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


@pytest.mark.parametrize(
    ("readme", "said"),
    [
        *((text, ModelMetadata()) for text in ("", "none", "---\nlicense: [\n---\n", "---\n- license\n---\n")),
        ("---\nlicense: {a: 1}\ntags: 3\n---\n", ModelMetadata()),
        (
            f"---\nlicense: |\n  a\n  b\nlanguage: en\ntags: [x, x, {'y' * 300}, 4]\n"
            "base_model: [o/a, ../../b, o/c]\n---",
            ModelMetadata(("o/a", "o/c"), "a b", languages=("en",), tags=("x",)),
        ),
    ],
)
def test_values_become_lines_and_what_is_malformed_is_not_said(folder: Path, readme: str, said: ModelMetadata) -> None:
    (folder / "README.md").write_text(readme)
    source = open_source(str(folder))
    assert model_metadata(source) == said
    # a model from the hub is the base itself
    assert model_metadata(replace(source, hub_id="owner/model")) == replace(said, base_model=("owner/model",))


def test_licences_are_passed_on_but_no_links_to_other_places(folder: Path, tmp_path: Path) -> None:
    (folder / "LICENSE.txt").write_bytes(b"a")
    (folder / "Notice").write_bytes(b"b")
    (folder / "LICENSE-old").write_bytes(b"x" * (2**20 + 1))
    (tmp_path / "secret").write_bytes(b"c")
    (folder / "COPYING").symlink_to(tmp_path / "secret")
    assert model_metadata(open_source(str(folder))).licence_files == {"LICENSE.txt": b"a", "Notice": b"b"}


def test_a_gguf_file_says_it_in_its_metadata(smollm2_gguf: Path) -> None:
    assert model_metadata(open_source(str(smollm2_gguf))) == ModelMetadata(license="apache-2.0", languages=("en",))
