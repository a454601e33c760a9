"""An export with a router, and ONNX folders of dense micro models, each made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper
from support.exports import export_with_router
from support.models import write_micro_model
from support.product import OnnxForm, Precision, convert_folder
from support.variations import VARIATIONS

from seap_export.common.checksums import SUMS
from seap_export.runtime.decoding.decoder import CACHE_KEY


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks a and b, and `general`, at ratio 0.2 with a router; not to be changed."""
    return export_with_router(tmp_path_factory.mktemp("routed"), ratios=(0.2,))


@pytest.fixture
def done(pristine: Path, tmp_path: Path) -> Path:
    """A copy of `pristine` to be changed, without lists of its files."""
    return Path(shutil.copytree(pristine, tmp_path / "out", ignore=shutil.ignore_patterns(SUMS)))


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`dense("qwen3", dtype="fp16", logits="last")`: the ONNX folder of that micro model; not to be changed.

    Options are those of `convert_folder`.
    """

    @cache
    def make(name: str, dtype: Any = "fp32", **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("dense")
        model = write_micro_model(folder / "m", **VARIATIONS[name])
        (folder / "onnx").mkdir()
        convert_folder(model, folder / "onnx", OnnxForm(Precision(dtype), **options))
        return folder / "onnx"

    return make


@pytest.fixture
def marked(tmp_path: Path) -> Callable[[Path, str], Path]:
    """`marked(folder, "appended")`: a copy of an ONNX folder whose graph says that about its cache."""

    def mark(folder: Path, cache: str) -> Path:
        copy = Path(shutil.copytree(folder, tmp_path / f"{folder.parent.name}-{cache}"))
        model = onnx.load(copy / "model.onnx", load_external_data=False)
        helper.set_model_props(model, {CACHE_KEY: cache})
        (copy / "model.onnx").write_bytes(model.SerializeToString())
        return copy

    return mark
