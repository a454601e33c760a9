"""The runtime works where torch, transformers and scikit-learn are not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from routed import task_texts

from seap_export.runtime import RoutedModel

ROOT = Path(__file__).parents[3]
CODE = """
import json, sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"torch", "transformers", "sklearn", "safetensors", "onnx", "onnx_ir", "scipy"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
from seap_export.runtime import RoutedModel
model = RoutedModel(sys.argv[1])
print(json.dumps([model.route(sys.argv[2]).task, model.generate(sys.argv[2], 8)]))
"""


def test_routes_and_generates_without_torch(pristine: Path) -> None:
    prompt = task_texts("b", 1, seed=9)[0]
    command = [sys.executable, "-c", CODE, str(pristine), prompt]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    model = RoutedModel(pristine)
    assert json.loads(done.stdout) == ["b", model.generate(prompt, 8)]
