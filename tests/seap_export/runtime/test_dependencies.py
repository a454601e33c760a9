"""The runtime works where torch, transformers and scikit-learn are not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.corpora import task_texts

from seap_export.runtime import RoutedModel
from seap_export.runtime.golden import write_golden

ROOT = Path(__file__).parents[3]
BLOCKED = """
import json, sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"torch", "transformers", "sklearn", "safetensors", "onnx", "onnx_ir", "scipy"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
"""
ROUTED = """
from seap_export.runtime import RoutedModel
model = RoutedModel(sys.argv[1])
print(json.dumps([model.route(sys.argv[2]).task, model.generate(sys.argv[2], 8)]))
"""
COMMAND = """
from seap_export.cli import main
main(sys.argv[1:])
"""


def test_routes_and_generates_without_torch(pristine: Path) -> None:
    prompt = task_texts("b", 1, seed=9)[0]
    command = [sys.executable, "-c", BLOCKED + ROUTED, str(pristine), prompt]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    model = RoutedModel(pristine)
    assert json.loads(done.stdout) == ["b", model.generate(prompt, 8)]


def test_compares_with_a_golden_without_torch(pristine: Path, tmp_path: Path) -> None:
    folder, golden = pristine / "a-0.2" / "onnx", tmp_path / "golden.npz"
    write_golden(folder, golden, ["the cat sat", "a dog ran far"], 4, ("max_abs", 1e-3), threads=1)
    arguments = ["validate", str(folder), "--against-golden", str(golden), "--json"]
    command = [sys.executable, "-c", BLOCKED + COMMAND, *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["verdict"], report["tokens"]) == ("passed", 5 * 4)  # two prompts alone, then both together
