"""Execution providers that come as plug-ins of ONNX Runtime: registered once in a process, with their devices."""

from __future__ import annotations

import importlib
import os
import threading
from pathlib import Path

import onnxruntime as ort

from seap_export.common.providers import Plugin, Provider
from seap_export.errors import EnvironmentFailure

#: What a report says of a device that computes shaders on the processor.
SOFTWARE = "software adapter: numbers right, times not"
_LOG_NOTHING_BUT_FATAL = 4
_LOCK = threading.Lock()
_registered: set[str] = set()


def plugin_devices(row: Provider) -> list[ort.OrtEpDevice]:
    """The devices that a plug-in runs on, the best one first: GPUs before software."""
    plugin = row.plugin
    assert plugin is not None
    with _LOCK:
        if plugin.module not in _registered:
            _register(row, plugin)
            _registered.add(plugin.module)
    found = [device for device in ort.get_ep_devices() if device.ep_name == row.ort_name]
    if not found:
        allowed = os.environ.get(plugin.software) == "1"
        leave = "" if allowed else f"set the environment variable {plugin.software} to 1 to allow one in software, or "
        raise EnvironmentFailure(f"no {row.hardware} for {row.label}; {leave}use --provider cpu")
    return sorted(found, key=is_software)


def is_software(device: ort.OrtEpDevice) -> bool:
    """Whether the processor computes what a GPU would."""
    return bool(device.device.type == ort.OrtHardwareDeviceType.CPU)


def plugin_device_name(row: Provider) -> str:
    """The name in reports of the device that sessions run on; raises the errors of `plugin_devices`."""
    device = plugin_devices(row)[0]
    if is_software(device):
        return SOFTWARE
    hardware = device.device
    return hardware.metadata.get("Description") or f"{hardware.vendor} GPU {hardware.device_id:#06x}"


def _register(row: Provider, plugin: Plugin) -> None:
    try:
        module = importlib.import_module(plugin.module)
        library = Path(module.get_library_path())
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(
            f'{row.label} is not installed ({reason}); run: pip install "{plugin.requirement}", or use --provider cpu'
        ) from error
    ort.set_default_logger_severity(_LOG_NOTHING_BUT_FATAL)  # it warns of software adapters
    try:
        ort.register_execution_provider_library(row.name, str(library))
    except Exception as error:  # ONNX Runtime's share no specific base class
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(
            f"{library.parent.name} does not fit onnxruntime {ort.__version__} ({reason}); "
            f'run: pip install "{plugin.requirement}", or use --provider cpu'
        ) from error
