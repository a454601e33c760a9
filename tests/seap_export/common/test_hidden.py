from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
_API = "from seap_export import export; export('MODEL', {'a': ['text']}, ratio=0.2, out='out')"
_COMMAND_LINE = "from seap_export.cli import main; main(['inspect', '.'])"


@pytest.mark.parametrize(("name", "call"), [("validation.py", _API), ("converters/__init__.py", _COMMAND_LINE)])
def test_a_file_that_hides_one_of_our_packages_is_named(tmp_path: Path, name: str, call: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.touch()
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; {call}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode != 0
    package = name.removesuffix(".py").partition("/")[0]
    assert f"{file} hides the package '{package}' of seap-export; rename it" in run.stderr
    assert "Traceback" not in run.stderr or "EnvironmentFailure" in run.stderr
