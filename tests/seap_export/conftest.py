"""Fixtures of all tests of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from seap_export.model.sources.source import Source
    from seap_export.pruning.activations.statistics import Calibration


@pytest.fixture
def random_calibration(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Calibration]:
    """Statistics of a model that no text gave: means of about 1, so that compensation has much to move.

    Channels depend on each other, so that a refit has something to find; of 40 tokens, fewer than channels.
    """

    def write(source: Source, task: str = "boolq", seed: int = 0, scale: float = 1.0) -> Calibration:
        import torch
        from support.calibration import write_calibration

        from seap_export.pruning.activations.covariance import pack_symmetric
        from seap_export.pruning.activations.moments import Moments
        from seap_export.pruning.activations.statistics import SublayerStatistics

        generator = torch.Generator().manual_seed(seed)
        spec = source.spec

        def statistics(channels: int) -> SublayerStatistics:
            mean = torch.randn(channels, generator=generator, dtype=torch.float64)
            mixing = torch.randn(channels, channels, generator=generator, dtype=torch.float64) / channels**0.5
            samples = mean + torch.randn(40, channels, generator=generator, dtype=torch.float64) @ mixing
            samples *= scale
            centred = samples - samples.mean(0)
            moments = Moments(40, samples.mean(0), centred.square().mean(0))
            return SublayerStatistics(moments, {"covariance": pack_symmetric(centred.T @ centred / 40)})

        layers = [
            {output: statistics(spec.projection_shape(output, index)[1]) for output in layer.outputs}
            for index, layer in enumerate(spec.layers)
        ]
        sensitivity = 0.1 + torch.rand(len(layers), 2, generator=generator, dtype=torch.float64)
        texts = torch.randint(spec.vocab_size, (5, 8), generator=generator).tolist()
        folder = tmp_path_factory.mktemp("calibration")
        return write_calibration(folder, source, task, layers, sensitivity, texts)

    return write
