"""What tests need and a machine may lack: a test is skipped, with the reason, where it is missing.

A test says `@pytest.mark.needs("browser")`. A name that is not listed below is a program on PATH, such as `cc`.
`pytest --require browser,cc` makes what is missing an error, which is how CI runs, and `--needing browser,cc` leaves
out the tests that need none of these.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest
from fake_cuda import build

from seap_export.common.extras import install_remedy
from seap_export.runtime.driver import gpu_name
from seap_export.runtime.providers import device_name

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Runs a command that may mount file systems which nothing else sees.
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def _browser() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def _mount() -> str | None:
    path = shutil.which(NAMESPACE[0])
    command = (*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/tmp")
    works = path is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    return path if works else None


def _packages(*names: str) -> str | None:
    try:
        specs = [importlib.util.find_spec(name) for name in names]
    except ModuleNotFoundError:  # of a package that a name is in
        return None
    return next((spec.origin for spec in specs if spec), None) if all(specs) else None


def _vllm() -> str | None:
    """The interpreter of an environment with vLLM, which cannot share ours."""
    named = os.environ.get("SEAP_EXPORT_VLLM_PYTHON") or Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
    return str(named) if Path(named).is_file() else None


def _transformers_js() -> str | None:
    from seap_export.errors import EnvironmentFailure
    from validation.runtimes.node.package import find_transformers_js

    try:
        return str(find_transformers_js().folder)
    except EnvironmentFailure:
        return None


def _genai_library() -> str | None:
    """A folder with ONNX Runtime GenAI's headers in `include`, and its library and ONNX Runtime's in `lib`."""
    named = os.environ.get("SEAP_GENAI", "")
    return named if (Path(named) / "include" / "ort_genai.h").is_file() else None


def _webgpu() -> str | None:
    """The device of WebGPU that sessions run on, which may be software."""
    from seap_export.errors import EnvironmentFailure
    from seap_export.runtime.session import probe

    try:
        probe("webgpu")
    except EnvironmentFailure:
        return None
    return device_name("webgpu")


INSTALL = "run 'npm install @huggingface/transformers@4.3 --ignore-scripts', or set SEAP_NODE_MODULES"
#: How each thing is found, and what to do where it is not.
SPECIAL: dict[str, tuple[Callable[[], str | None], str]] = {
    "browser": (
        lambda: next(filter(None, map(shutil.which, BROWSERS)), None),
        "install Chromium or Chrome, such as with 'apt-get install chromium'",
    ),
    "fake-cuda": (lambda: str(build.built() or "") or None, build.REMEDY),
    "gpu": (gpu_name, "'seap-export doctor --require cuda' says what a GPU needs"),
    "llama.cpp": (partial(_packages, "xllamacpp"), install_remedy("gguf")),
    "openvino": (partial(_packages, "openvino", "openvino_genai", "openvino_tokenizers"), install_remedy("openvino")),
    "mlx-lm": (partial(_packages, "mlx_lm"), install_remedy("mlx")),
    "genai-library": (_genai_library, "unpack a release of ONNX Runtime GenAI, and name its folder in SEAP_GENAI"),
    "litert": (partial(_packages, "ai_edge_litert", "litert_lm"), install_remedy("litert")),
    "executorch": (partial(_packages, "executorch.exir"), install_remedy("executorch")),
    "model-signing": (partial(_packages, "model_signing", "OpenSSL"), install_remedy("signing")),
    "ray": (partial(_packages, "ray"), install_remedy("ray")),
    "vllm": (_vllm, "install it with 'make .venv-vllm/installed', or set SEAP_EXPORT_VLLM_PYTHON"),
    "transformers.js": (_transformers_js, INSTALL),
    "webgpu": (_webgpu, "'seap-export doctor --require webgpu' says what it needs; in software, mesa-vulkan-drivers"),
    "mount": (_mount, "it takes Linux with unshare and user namespaces"),
}


@cache
def find(name: str) -> str | None:
    """The path of the program that gives it, or None."""
    return SPECIAL[name][0]() if name in SPECIAL else shutil.which(name)


def _missing(name: str) -> str:
    return f"{name} is missing: {SPECIAL[name][1] if name in SPECIAL else f'no {name} on PATH'}"


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "what the tests must not miss, such as browser,cc,npm: an error where it is missing, instead of skips"
    parser.addoption("--require", default="", metavar="NAMES", help=help)
    parser.addoption("--needing", default="", metavar="NAMES", help="only tests that need one of these")


def pytest_configure(config: pytest.Config) -> None:
    required = filter(None, config.getoption("--require").split(","))
    missing = [_missing(name) for name in required if find(name) is None]
    if missing:
        raise pytest.UsageError("; ".join(missing))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    names = set(filter(None, config.getoption("--needing").split(",")))
    if not names:
        return
    config.hook.pytest_deselected(items=[item for item in items if not names & _needed(item)])
    items[:] = [item for item in items if names & _needed(item)]


def _needed(item: pytest.Item) -> set[str]:
    return {name for marker in item.iter_markers("needs") for name in marker.args}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if find(name) is None:
                pytest.skip(_missing(name))
