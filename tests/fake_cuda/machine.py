"""A machine with GPUs that there are not: programs run on the stand-ins, and what they asked for is counted."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .build import built
from .log import Counts, read

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ran:
    """How a program ended, and what it asked the GPUs for, in the sections that it marked ("" before the first)."""

    returncode: int
    stdout: str
    stderr: str
    sections: dict[str, Counts]

    def __getitem__(self, section: str) -> Counts:
        return self.sections[section]


@dataclass(frozen=True)
class Machine:
    """What there is: GPUs of a compute capability times 10, each with so many bytes, and no libraries of `without`.

    Kernels compute nothing: where the host copies a single 64-bit number, it reads `number`.
    """

    sm: int = 90
    gpus: int = 1
    memory: int = 80 << 30
    name: str = "a stand-in for a GPU"
    number: int = 0
    without: tuple[str, ...] = ()

    def run(self, arguments: Sequence[str | Path], timeout: float = 300, python: str | Path = sys.executable) -> Ran:
        """Runs Python with arguments, such as ["-m", "seap_export.cli", "doctor"] or ["-c", "import torch"].

        The program finds the test folder's helper modules, `fake_cuda.log.mark` among them.
        """
        libraries = built()
        assert libraries is not None, "the test lacks @pytest.mark.needs('fake-cuda')"
        with tempfile.TemporaryDirectory() as folder:
            for library in libraries.iterdir():
                if library.name not in self.without:
                    (Path(folder) / library.name).symlink_to(library)
            log = Path(folder) / "log"
            environment = os.environ | self._environment(Path(folder), log)
            command = [str(python), *map(str, arguments)]
            result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)
            return Ran(result.returncode, result.stdout, result.stderr, read(log))

    def _environment(self, folder: Path, log: Path) -> dict[str, str]:
        runtime = folder / "libcudart.so.13"
        paths = [str(TESTS.parent), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "FAKE_CUDA_SM": str(self.sm),
            "FAKE_CUDA_GPUS": str(self.gpus),
            "FAKE_CUDA_MEMORY": str(self.memory),
            "FAKE_CUDA_NAME": self.name,
            "FAKE_CUDA_NUMBER": str(self.number),
            "FAKE_CUDA_LOG": str(log),
            "LD_LIBRARY_PATH": str(folder),
            # ONNX Runtime prefers a runtime library that it finds among Python's packages, and the headers' wheel has
            # one. What is loaded already comes first.
            "LD_PRELOAD": str(runtime) if runtime.exists() else "",
            # A function that the stand-ins lack is an error at once.
            "LD_BIND_NOW": "1",
            "PYTHONPATH": os.pathsep.join(paths),
        }
