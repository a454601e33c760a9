"""Fixtures that several test folders share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))  # for the helper modules
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["COLUMNS"] = "1000"  # in which nothing is wrapped or left out
os.environ.setdefault("ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER", "1")  # its numbers are right
os.fsync = lambda fd: None  # the machine fails in no test, and a sync takes milliseconds
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell ignores it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

from fake_cuda.machine import Machine  # noqa: E402
from support import needs, planted  # noqa: E402
from support.needs import pytest_collection_modifyitems, pytest_configure, pytest_runtest_setup  # noqa: E402, F401
from support.planted import pytest_itemcollected, pytest_terminal_summary  # noqa: E402, F401

if TYPE_CHECKING:
    from support.exports import Run
    from support.processes import Tool


def pytest_addoption(parser: pytest.Parser) -> None:
    needs.pytest_addoption(parser)
    planted.pytest_addoption(parser)
    help = "where `make demo` writes, or has written; without it, into a folder of the tests"
    parser.addoption("--demo", default="", metavar="FOLDER", help=help)
    help = "what tests/gpu runs on; cpu rehearses them"
    parser.addoption("--gpu-provider", default="cuda", metavar="NAME", help=help)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With --dist loadfile, one process runs all that use the demo of the real model, not only those of a file."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/real" if nodeid.startswith("tests/real/") else super()._split_scope(nodeid)

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The real model; `make test` fetches it."""
    path = ROOT / ".cache" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.is_file():
        pytest.fail("the real model is missing; fetch it with: python samples/get_model.py .cache")
    return path


@pytest.fixture(scope="session")
def coder_gguf() -> Path:
    """The second real model; `make test-all` fetches it."""
    path = ROOT / ".cache" / "Qwen2.5-Coder-0.5B-Instruct.gguf"
    if not path.is_file():
        pytest.fail("the model is missing; fetch it with: python samples/get_model.py .cache qwen2.5-coder")
    return path


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model `m` and corpora `a.jsonl` and `b.jsonl`; not to be changed."""
    from support.corpora import write_corpus
    from support.models import write_micro_model

    folder = tmp_path_factory.mktemp("inputs")
    write_micro_model(folder / "m", model_type="llama")
    write_corpus(folder / "a.jsonl")
    write_corpus(folder / "b.jsonl", seed=5)
    return folder


@pytest.fixture
def work(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with its own copy of the inputs, so that messages hold short paths."""
    folder = tmp_path / "work"
    shutil.copytree(inputs, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run() -> Run:
    """`run("export", ...)` in this process: exit code, stdout and stderr."""
    from support.exports import run_here

    return run_here


@pytest.fixture
def example_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model and a corpus under the names that the examples of the docs give them."""
    from support.corpora import write_corpus
    from support.models import write_micro_model
    from support.tokenizers import write_byte_level

    write_micro_model(tmp_path / "MODEL", model_type="llama", vocab_size=130)
    write_byte_level(tmp_path / "MODEL")
    write_corpus(tmp_path / "maths.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    """`tool(folder, "export", ...)`: the command in a process of its own, which starts at once."""
    from support.processes import Tool

    server = Tool(tmp_path_factory.mktemp("tool"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def fake_cuda() -> type[Machine]:
    """Machines with GPUs that there are not, such as `fake_cuda(sm=80).run([...])`; its tests need "fake-cuda"."""
    return Machine


@pytest.fixture(scope="module", autouse=True)
def _imports_are_no_garbage() -> None:
    """Comparisons collect garbage after each model, and would look through all that was imported each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    """One thread for micro models, whose threads mostly wait for each other; for the real one those of its cores."""
    from support.models import one_thread, share_of_cores

    with share_of_cores() if item.get_closest_marker("real") else one_thread():
        return (yield)
