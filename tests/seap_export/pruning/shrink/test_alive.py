"""What is alive at once while layers are swept: a layer, the sums of one sublayer, and the streams in their place."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.calibration import compute_in_memory, compute_on_disk, mixture_of
from support.corpora import random_token_ids
from support.models import micro_source
from support.plans import layer_plan, plan_of
from support.product import Compute, Source, collect_statistics, write_shrunk_model
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seap_export.pruning.activations import calibrate as calibrate_module
from seap_export.pruning.activations import sensitivity

#: Neurons of a layer; a matrix of all of them in float64 is by far the largest of what micro models need.
NEURONS = 800
MATRIX = 8 * NEURONS**2
TEXTS = random_token_ids(100)


class Peak(TorchDispatchMode):
    """The largest sum of bytes of all tensors that operators made and somebody held at once."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._alive = {key: alive for key, alive in self._alive.items() if not alive[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self._alive.values()))
        return result


@pytest.fixture(autouse=True)
def few_tokens_of_the_sensitivity(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that their gradients are small against a matrix."""
    for module in (calibrate_module, sensitivity):
        monkeypatch.setattr(module, "SENSITIVITY_TOKENS", 32)


def peak_of(work: Callable[[], None]) -> int:
    gc.collect()
    with Peak() as peak:
        work()
    return peak.bytes


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Source]:
    work = tmp_path_factory.mktemp("sources")
    return {
        layers: micro_source(work / str(layers), intermediate_size=NEURONS, num_hidden_layers=layers)
        for layers in (2, 4)
    }


def test_calibration_has_one_covariance_however_many_layers(sources: dict[int, Source], tmp_path: Path) -> None:
    peaks = []
    for layers, source in sources.items():
        folder = tmp_path / str(layers)
        folder.mkdir()
        collect = partial(collect_statistics, source, TEXTS, folder, compute_on_disk(source), check=False)
        peaks.append(peak_of(collect))
    assert MATRIX < peaks[0] < 1.9 * MATRIX
    assert peaks[1] < 1.02 * peaks[0]


def _refit(source: Source, work: Path, compute: Compute) -> int:
    statistics = mixture_of(source, work / "statistics", {"boolq": TEXTS})
    layers = [layer_plan(layer, None, 0, range(1, NEURONS)) for layer in source.spec.layers]
    plan = plan_of(source, layers, "sequential")
    (work / "out").mkdir()
    return peak_of(lambda: write_shrunk_model(source, plan, statistics, work / "out", compute=compute))


def test_the_refit_has_one_matrix_and_its_copy_and_no_inputs(sources: dict[int, Source], tmp_path: Path) -> None:
    inputs = 4 * sum(map(len, TEXTS)) * NEURONS
    assert inputs > 0.8 * MATRIX
    disk = _refit(sources[4], tmp_path / "disk", compute_on_disk(sources[4]))
    memory = _refit(sources[2], tmp_path / "memory", compute_in_memory())
    assert disk < 2.25 * MATRIX  # however many layers there are
    assert memory > disk + inputs / 2  # where there is room, they are kept
