"""The wheel: what it carries, and that it works on its own."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.product import families

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")  # a copy: setuptools leaves its build folder where it builds
    for name in ("seap_export", "converters", "validation"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "build", "--wheel", source], check=True, capture_output=True, text=True)
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_wheel_holds_the_three_packages_and_the_file_that_optimum_looks_for(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    ours = {"seap_export", "converters", "validation"}
    others = [name for name in names if name.split("/")[0] not in ours and ".dist-info/" not in name]
    assert others == ["optimum/commands/register/register_seap.py"]
    assert {name.split("/")[0] for name in names} > ours
    assert not any(name.startswith("seap_export/optimum_plugin/optimum/") for name in names)
    files = [path.relative_to(ROOT) for name in ours for path in (ROOT / name).rglob("*") if path.is_file()]
    kept = {path.as_posix() for path in files if not {"__pycache__", "optimum"} & set(path.parts)}
    assert len([name for name in kept if not name.endswith(".py")]) > 90
    assert kept <= set(names)


#: Modules whose package has another name.
PACKAGES = {"sklearn": "scikit-learn", "litert_lm_builder": "litert-lm"}
OURS = {"seap_export", "converters", "validation"}


def third_party_imports() -> dict[str, Path]:
    """The packages that the files of the wheel import, each with a file that does."""
    found = {}
    for file in sorted(path for name in OURS for path in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [str(node.module)]
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                modules = [str(word.value) for word in node.args if isinstance(word, ast.Constant)]
            for name in {module.split(".")[0] for module in modules} - OURS - sys.stdlib_module_names:
                found.setdefault(PACKAGES.get(name, name).replace("_", "-"), file)
    return found


def test_every_package_that_is_imported_is_declared() -> None:
    """Not one that another package brings along today."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {name: texts for name, texts in project["optional-dependencies"].items() if name != "dev"}
    declared = [Requirement(text) for texts in (project["dependencies"], *extras.values()) for text in texts]
    names = {requirement.name.replace("_", "-").lower() for requirement in declared}
    imported = third_party_imports()
    assert {"torch", "huggingface-hub", "flatbuffers", "litert-lm", "mlx-lm"} <= imported.keys()
    assert {name: file for name, file in imported.items() if name.lower() not in names} == {}


def test_wheel_works_in_a_fresh_environment(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dependencies come from this environment through a path file; the three packages from the wheel alone."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    environment = tmp_path / "environment"
    venv.create(environment)
    python = environment / "bin" / "python"
    empty = tmp_path / "empty"
    empty.mkdir()
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel]
    subprocess.run(install, cwd=empty, check=True)
    packages = next((environment / "lib").glob("python*/site-packages"))
    dependencies = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "dependencies.pth").write_text(f"import sys; sys.path.append({str(dependencies)!r})\n", "utf-8")
    command = [environment / "bin" / "seap-export", "--version"]
    assert subprocess.run(command, cwd=empty, check=True, capture_output=True, text=True).stdout.startswith("seap-ex")
    code = (
        "import json, converters, seap_export, validation;"
        "from seap_export.model.families.files import families;"
        "names = [family.model_type for family in families()];"
        "print(json.dumps([m.__file__ for m in (converters, seap_export, validation)] + [names]))"
    )
    done = subprocess.run([python, "-c", code], cwd=empty, check=True, capture_output=True, text=True)
    *files, names = json.loads(done.stdout)
    assert all(Path(file).is_relative_to(environment) for file in files)
    assert names == [family.model_type for family in families()]
    command = [python, "-m", "optimum.commands.optimum_cli", "export", "seap", "--help"]
    done = subprocess.run(command, cwd=empty, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("Usage: seap-export export [OPTIONS] MODEL\n")
    assert list(empty.iterdir()) == []
