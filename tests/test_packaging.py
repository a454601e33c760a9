"""The wheel and the sdist: what they carry, and that they work on their own, on the oldest and the newest Python."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from itertools import cycle
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from support.models import write_micro_model
from support.product import families
from support.tokenizers import write_byte_level

from seap_export import __version__
from seap_export.cli import main

ROOT = Path(__file__).parents[1]
OURS = {"seap_export", "converters", "validation"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, and the wheel that is built from it, by their suffixes."""
    source = tmp_path_factory.mktemp("source")  # a copy: setuptools leaves its build folder where it builds
    for name in OURS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "build", source], check=True, capture_output=True, text=True)
    return {suffix: next((source / "dist").glob(f"*{suffix}")) for suffix in (".whl", ".tar.gz")}


def test_wheel_holds_the_three_packages_and_the_file_that_optimum_looks_for(built: dict[str, Path]) -> None:
    names = zipfile.ZipFile(built[".whl"]).namelist()
    others = [name for name in names if name.split("/")[0] not in OURS and ".dist-info/" not in name]
    assert others == ["optimum/commands/register/register_seap.py"]
    assert {name.split("/")[0] for name in names} > OURS
    files = [path.relative_to(ROOT) for name in OURS for path in (ROOT / name).rglob("*") if path.is_file()]
    kept = {path.as_posix() for path in files if not {"__pycache__", "optimum"} & set(path.parts)}
    assert len([name for name in kept if not name.endswith(".py")]) > 90
    assert kept == {name for name in names if name.split("/")[0] in OURS}


#: Modules whose package has another name.
PACKAGES = {"sklearn": "scikit-learn", "litert_lm_builder": "litert-lm"}


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
    extras = [texts for name, texts in PROJECT["optional-dependencies"].items() if name != "dev"]
    declared = [Requirement(text) for texts in (PROJECT["dependencies"], *extras) for text in texts]
    names = {requirement.name.replace("_", "-").lower() for requirement in declared}
    imported = third_party_imports()
    assert {"torch", "huggingface-hub", "flatbuffers", "litert-lm", "mlx-lm"} <= imported.keys()
    assert {name: file for name, file in imported.items() if name.lower() not in names} == {}


def test_wheel_works_in_a_fresh_environment(
    built: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dependencies come from this environment through a path file; the three packages from the wheel alone."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    venv.create(environment)
    empty.mkdir()

    def run(*words: object) -> str:
        return subprocess.run(list(map(str, words)), cwd=empty, check=True, capture_output=True, text=True).stdout

    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", built[".whl"])
    packages = next((environment / "lib").glob("python*/site-packages"))
    dependencies = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "dependencies.pth").write_text(f"import sys; sys.path.append({dependencies!r})\n", "utf-8")
    code = (
        "import json, converters, seap_export, validation;"
        "from seap_export.model.families.files import families;"
        "names = [family.model_type for family in families()];"
        "print(json.dumps([m.__file__ for m in (converters, seap_export, validation)] + [names]))"
    )
    *files, names = json.loads(run(python, "-c", code))
    assert all(Path(file).is_relative_to(environment) for file in files)
    assert names == [family.model_type for family in families()]
    told = run(python, "-m", "optimum.commands.optimum_cli", "export", "seap", "--help")
    assert told.startswith("Usage: seap-export export [OPTIONS] MODEL\n")
    assert list(empty.iterdir()) == []


def _pythons() -> list[str]:
    """The oldest and the newest Python of this machine that pyproject.toml allows; one if there is no other."""
    allowed = SpecifierSet(PROJECT["requires-python"])
    names = [f"3.{minor}" for minor in range(8, 30) if allowed.contains(f"3.{minor}")]
    works = [name for name in names if (path := shutil.which(f"python{name}")) and _runs(path, name)]
    return works[:1] + works[-1:] if len(works) > 1 else works


def _runs(path: str, name: str) -> bool:
    """Whether it is no shim of a Python that is not there, and can make an environment."""
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() == name


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_micro_model(folder / "m", model_type="llama", vocab_size=130)
    write_byte_level(folder / "m")
    result = CliRunner().invoke(main, ["convert", str(folder / "m"), "--out", str(folder / "onnx"), "-q"])
    assert result.exit_code == 0, result.stderr
    return folder / "onnx"


@pytest.mark.release
@pytest.mark.parametrize(("python", "suffix"), [*zip(cycle(_pythons()), (".whl", ".tar.gz"), strict=False)])
def test_it_installs_and_answers(
    python: str, suffix: str, built: dict[str, Path], written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the five packages that a device needs (docs/fit.md), from the index."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    environment = tmp_path / "environment"
    subprocess.run([f"python{python}", "-m", "venv", "--without-pip", environment], check=True)
    install = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install", "--quiet"]
    needed = ["click", "jinja2", "numpy", "onnxruntime", "tokenizers"]
    subprocess.run([*install, *needed], cwd=tmp_path, check=True)
    subprocess.run([*install, "--no-deps", built[suffix]], cwd=tmp_path, check=True)

    def run(*words: object) -> str:
        command = [str(word) for word in (environment / "bin" / "seap-export", *words)]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert run("--version").split()[-1] == __version__
    assert json.loads(run("doctor", "--require", "cpu", "--json"))["schema"] == "seap-export/doctor/1"
    asked = "generate", written, "the quick brown fox", "--max-new-tokens", "4", "--json"
    here = CliRunner().invoke(main, [str(word) for word in asked])
    assert json.loads(run(*asked)) == json.loads(here.stdout)


def test_the_workflow_publishes_what_was_installed_without_a_token() -> None:
    """Trusted publishing with attestations; every action is pinned to a commit."""
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text("utf-8")
    workflow = yaml.safe_load(text)
    install, publish = (workflow["jobs"][name] for name in ("install", "publish"))
    assert (install["needs"], publish["needs"]) == ("build", "install")
    assert (workflow["permissions"], publish["permissions"]) == ({"contents": "read"}, {"id-token": "write"})
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert [action for action in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)] == []
    assert "secrets." not in text
