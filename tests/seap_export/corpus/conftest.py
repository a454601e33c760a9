"""Data sets as small Parquet files, and tasks of the lm-evaluation-harness that read them: there is no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

Records = Sequence[dict[str, Any]]


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def write_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data set of the given splits, laid out as on the hub; gives its folder."""

    def write(name: str = "some", **splits: Records) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for split, records in splits.items():
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), folder / f"{split}.parquet")
        return folder

    return write


@pytest.fixture
def write_harness_task(
    tmp_path: Path, write_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Writes a task of the harness, whose other tasks are then out of sight."""
    from lm_eval.tasks import TaskManager

    tasks = tmp_path / "tasks"
    tasks.mkdir()
    monkeypatch.setattr(
        "lm_eval.tasks.TaskManager", partial(TaskManager, include_path=str(tasks), include_defaults=False)
    )

    def write(name: str, yaml: str, **splits: Records) -> None:
        folder = write_dataset(f"{name}_data", **splits)
        files = "".join(f"    {split}: {folder / f'{split}.parquet'}\n" for split in splits)
        (tasks / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: parquet\ndataset_kwargs:\n  data_files:\n{files}{yaml}"
        )

    return write
