"""Versions of packages, two distributions of ONNX Runtime, and what to install for what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.stand_ins.doctor import packages

from seap_export.runtime.doctor.packages import missing_remedy, read_packages, reinstall_remedy


@pytest.fixture
def second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a distribution of ONNX Runtime that is installed beside the real one."""
    name = "onnxruntime" if "onnxruntime-gpu" in read_packages().onnxruntime else "onnxruntime-gpu"
    folder = tmp_path / f"{name.replace('-', '_')}-1.20.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.20.0\n", "utf-8")
    (folder / "top_level.txt").write_text("onnxruntime\n", "utf-8")
    genai = tmp_path / "onnxruntime_genai-0.9.0.dist-info"  # brings another package, and does no harm
    genai.mkdir()
    (genai / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-genai\nVersion: 0.9.0\n", "utf-8")
    (genai / "top_level.txt").write_text("onnxruntime_genai\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_two_distributions_are_a_warning(second: str) -> None:
    packages = read_packages()
    assert set(packages.onnxruntime) == {"onnxruntime", "onnxruntime-gpu"}
    assert packages.onnxruntime[second] == "1.20.0"
    (warning,) = packages.warnings
    assert warning == (
        "onnxruntime and onnxruntime-gpu overwrite each other's files; run: pip uninstall -y onnxruntime "
        f"onnxruntime-gpu && pip install onnxruntime-gpu=={packages.onnxruntime['onnxruntime-gpu']}"
    )


CUDA = 'run: pip install "onnxruntime-gpu[cuda,cudnn]==1.31.1"'
TENSORRT = 'run: pip install "tensorrt-cu13==10.*", then put its folder tensorrt_libs on LD_LIBRARY_PATH'


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        (["libcublas.so.13", "libcudart.so.13"], CUDA),
        (["libcuda.so.1"], "install the NVIDIA driver"),
        (["libcublas.so.13", "libcuda.so.1"], f"install the NVIDIA driver, then {CUDA}"),
        (["libnvinfer.so.10", "libnvonnxparser.so.10"], TENSORRT),
        (
            ["libnvinfer.so.10", "libcudart.so.13", "libcuda.so.1"],
            f"install the NVIDIA driver, then {CUDA}, then {TENSORRT}",
        ),
        ([], CUDA),
    ],
)
def test_remedies(missing: list[str], remedy: str) -> None:
    assert missing_remedy(missing, packages()) == remedy


def test_remedies_for_other_distributions() -> None:
    cpu_only = packages(onnxruntime={"onnxruntime": "1.24.4"}, cuda_version=None)
    assert missing_remedy([], cpu_only) == (
        'run: pip uninstall -y onnxruntime && pip install "onnxruntime-gpu[cuda,cudnn]"'
    )
    assert reinstall_remedy(cpu_only) == "run: pip uninstall -y onnxruntime && pip install onnxruntime==1.24.4"
    cuda12 = packages(cuda_version="12.8")
    assert '"tensorrt-cu12==10.*"' in missing_remedy(["libnvinfer.so.10"], cuda12)
    unknown = packages(onnxruntime={})
    assert reinstall_remedy(unknown) == "run: pip uninstall -y onnxruntime && pip install onnxruntime"
