"""The packages that seap-export uses, and the commands that install them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

import onnxruntime as ort

from seap_export.common.providers import PROVIDERS
from seap_export.runtime.driver import DRIVER_LIBRARY
from seap_export.runtime.providers import is_too_old

#: Needed to run a variant, besides ONNX Runtime, which comes in several distributions.
RUNTIME = ("click", "jinja2", "numpy", "tokenizers")
#: Needed in addition to export one.
EXPORT = (
    "filelock", "gguf", "huggingface_hub", "markupsafe", "ml_dtypes", "onnx", "onnx-ir", "optimum", "packaging",
    "psutil", "pyarrow", "safetensors", "scikit-learn", "torch", "transformers",
)  # fmt: skip
_TENSORRT = re.compile(r"libnv(?:infer|onnxparser)\w*\.so\.(\d+)")
_CPU_ONLY = "onnxruntime"
#: The distribution of ONNX Runtime that has CUDA and TensorRT.
GPU_DISTRIBUTION = "onnxruntime-gpu"


@dataclass(frozen=True)
class Packages:
    """Installed versions."""

    versions: Mapping[str, str | None]
    onnxruntime: Mapping[str, str]
    cuda_version: str | None

    @property
    def missing(self) -> list[str]:
        """The names of packages that are not installed."""
        return [name for name, version in self.versions.items() if version is None]

    @property
    def is_too_old_for_cuda(self) -> bool:
        """Whether variants run with this onnxruntime-gpu on the CPU only."""
        version = self.onnxruntime.get(GPU_DISTRIBUTION)
        return version is not None and is_too_old(version, "cuda")

    @property
    def warnings(self) -> list[str]:
        """Faults and how to fix them, one line each; missing packages of `EXPORT` are not an error."""
        lines = []
        if len(self.onnxruntime) > 1:
            names = " and ".join(sorted(self.onnxruntime))
            lines.append(f"{names} overwrite each other's files; {reinstall_remedy(self)}")
        lacking = [name for name in RUNTIME if self.versions[name] is None]
        if lacking:
            lines.append(f"{', '.join(lacking)} not installed; run: pip install {' '.join(lacking)}")
        return lines


def read_packages() -> Packages:
    """Reads the metadata of the installed packages; imports none of them."""
    return Packages(
        {name: _version(name) for name in sorted((*RUNTIME, *EXPORT))},
        _onnxruntime_distributions(),
        getattr(ort, "cuda_version", "") or None,
    )


def missing_remedy(missing: Sequence[str], packages: Packages) -> str:
    """How to install libraries that cannot be loaded; if there are none, how to install ONNX Runtime with CUDA."""
    steps = ["install the NVIDIA driver"] if DRIVER_LIBRARY in missing else []
    tensorrt = next((match[1] for name in missing if (match := _TENSORRT.match(name))), None)
    if not missing or any(name != DRIVER_LIBRARY and not _TENSORRT.match(name) for name in missing):
        steps.append(f"run: {_cuda_command(packages)}")
    if tensorrt:
        cuda = (packages.cuda_version or "13").partition(".")[0]
        steps.append(f'run: pip install "tensorrt-cu{cuda}=={tensorrt}.*"')
        steps.append("put its folder tensorrt_libs on LD_LIBRARY_PATH")
    return ", then ".join(steps)


def upgrade_remedy() -> str:
    """How to get an ONNX Runtime that is new enough for CUDA."""
    oldest = PROVIDERS["cuda"].oldest
    return f'run: pip install "{GPU_DISTRIBUTION}[cuda,cudnn]>={oldest}"'


def reinstall_remedy(packages: Packages) -> str:
    """How to repair the ONNX Runtime installation."""
    names = sorted(packages.onnxruntime) or [_CPU_ONLY]
    keep = GPU_DISTRIBUTION if GPU_DISTRIBUTION in names else names[0]
    pin = f"=={packages.onnxruntime[keep]}" if keep in packages.onnxruntime else ""
    return f"run: pip uninstall -y {' '.join(names)} && pip install {keep}{pin}"


def _cuda_command(packages: Packages) -> str:
    """The extras of ONNX Runtime select matching releases; cuBLAS comes as a dependency of cuDNN."""
    others = [name for name in sorted(packages.onnxruntime) if name != GPU_DISTRIBUTION]
    uninstall = f"pip uninstall -y {' '.join(others)} && " if others else ""
    pin = f"=={packages.onnxruntime[GPU_DISTRIBUTION]}" if GPU_DISTRIBUTION in packages.onnxruntime else ""
    return f'{uninstall}pip install "{GPU_DISTRIBUTION}[cuda,cudnn]{pin}"'


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _onnxruntime_distributions() -> dict[str, str]:
    return {
        distribution.metadata["Name"]: distribution.version
        for distribution in metadata.distributions()
        if _CPU_ONLY in (distribution.read_text("top_level.txt") or "").split()
    }
