"""A device and its memory."""

import pytest
import torch
from support.product import Driver

from seap_export.common.memory import available_memory
from seap_export.errors import EnvironmentFailure, UsageError
from seap_export.model.layers.compute import choose_compute, parse_bytes, torch_threads
from seap_export.runtime.driver import Gpu


def test_sizes() -> None:
    sizes = {"8GiB": 8 * 2**30, "500MB": 500_000_000, "2kB": 2000, "1.5 kib": 1536, "1000000": 1_000_000}
    assert {text: parse_bytes(text) for text in sizes} == sizes
    for text in ("", "eight", "8 cows", "-1GB", "0", "8GiB!", "60"):
        with pytest.raises(UsageError, match=r"size|unit"):
            parse_bytes(text)


def test_without_a_gpu_auto_is_the_cpu_with_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_memory() > 0
    monkeypatch.setattr("seap_export.model.layers.compute.available_memory", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (choose_compute("auto").is_cpu, choose_compute("auto").memory) == (True, 900)
    for gpus, message in (((), "no NVIDIA GPU"), ((Gpu("NVIDIA T4", 1 << 34),), "no CUDA GPU")):
        driver = Driver("13.0", gpus, "" if gpus else "there is no NVIDIA driver")
        monkeypatch.setattr("seap_export.model.layers.compute.read_driver", lambda driver=driver: driver)
        with pytest.raises(EnvironmentFailure, match=message):
            choose_compute("cuda")


def test_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 2 * 10**9))
    assert choose_compute("auto").device == torch.device("cuda", 0)
    second = choose_compute("cuda:1", "2GB")
    assert (second.device, second.memory, second.device_memory) == (torch.device("cuda", 1), 2 * 10**9, 9 * 10**8)
    with pytest.raises(EnvironmentFailure, match="2 GPUs"):
        choose_compute("cuda:2")
    with pytest.raises(UsageError, match="not a device"):
        choose_compute("gpu")


def test_threads_are_those_of_the_block_only() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        with torch_threads(None):
            assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(UsageError, match="--threads 0"), torch_threads(0):
        pass
