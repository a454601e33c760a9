"""The runtime works where torch, transformers and scikit-learn are not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.corpora import task_texts

from seap_export.runtime import Generator
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
PROGRAM = """
from seap_export.cli import main
from seap_export.runtime import RoutedModel
model = RoutedModel(sys.argv[1])
print(json.dumps([model.route(sys.argv[2]).task, model.generate(sys.argv[2], 8)]))
main(sys.argv[3:])
"""


def test_routes_generates_and_compares_without_torch(pristine: Path, tmp_path: Path) -> None:
    folder, golden, prompt = pristine / "a-0.2" / "onnx", tmp_path / "golden.npz", task_texts("b", 1, seed=9)[0]
    write_golden(folder, golden, ["the cat sat", "a dog ran far"], 4, ("max_abs", 1e-3), threads=1)
    validate = ["validate", str(folder), "--against-golden", str(golden), "--json"]
    command = [sys.executable, "-c", BLOCKED + PROGRAM, str(pristine), prompt, *validate]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    routed, _, report = done.stdout.partition("\n")
    assert json.loads(routed) == ["b", Generator(pristine / "b-0.2" / "onnx").generate(prompt, 8)]
    values = json.loads(report)
    assert (values["verdict"], values["tokens"]) == ("passed", 5 * 4)  # two prompts alone, then both together
