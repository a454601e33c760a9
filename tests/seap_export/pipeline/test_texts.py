"""Calibration sees the token ids that the artifact's own tokenizer gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from micro import FAMILIES, write_micro_model
from tokenizers import Tokenizer

from seap_export.corpus import Sample
from seap_export.pipeline.texts import tokenize
from seap_export.sources.source import open_source


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_thetokenizer_file_whatever_the_family(tmp_path: Path, family: str) -> None:
    folder = write_micro_model(tmp_path / "m", model_type=family)
    text = "the cat sat on a mat"
    ids = tokenize(open_source(str(folder)), {"a": [Sample(text, "")]}, max_length=64)
    assert ids == {"a": [Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids]}
