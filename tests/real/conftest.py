"""The real model goes through the README's demo once; all tests here use what it wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test of this folder; they start first, since they take longest."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)
    items.sort(key=lambda item: item.get_closest_marker("real") is None)


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    def seap_export(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [ROOT / ".venv" / "bin" / "seap-export", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done

    return seap_export


@pytest.fixture(scope="session")
def tasks(request: pytest.FixtureRequest) -> list[str]:
    """The demo's tasks; of these, `make test` makes the first one alone, unless the folder is shared."""
    needs_all = any(item.get_closest_marker("release") for item in request.session.items)
    return ["dates", "purchases"] if needs_all or request.config.getoption("--demo") else ["dates"]


@pytest.fixture(scope="session")
def demo(
    request: pytest.FixtureRequest, tasks: list[str], tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path
) -> Path:
    """The folder that `make demo` fills, at ratio 0.5 in int4; other tests add more to it."""
    shared = request.config.getoption("--demo")
    out = Path(shared).absolute() if shared else tmp_path_factory.mktemp("demo") / "demo-output"
    command = ["make", "demo", f"OUT={out}", f"TASKS={' '.join(tasks)}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out
