"""An export with a router, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from routed import export_with_router


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks a and b, and `general`, at ratio 0.2 with a router; not to be changed."""
    return export_with_router(tmp_path_factory.mktemp("routed"), ratios=(0.2,))


@pytest.fixture
def done(pristine: Path, tmp_path: Path) -> Path:
    """A copy of `pristine`."""
    return Path(shutil.copytree(pristine, tmp_path / "out"))
