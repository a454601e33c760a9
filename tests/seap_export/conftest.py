"""Fixtures of all tests of the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from seap_export.activations.statistics import Calibration
    from seap_export.sources.source import Source


@pytest.fixture
def random_calibration(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Source], Calibration]:
    """Statistics of a model that no text gave: means of about 1, so that compensation has much to move."""

    def write(source: Source) -> Calibration:
        import torch

        from seap_export.activations.moments import Moments
        from seap_export.activations.statistics import Calibration, CalibrationRecord, LayerMoments, write_calibration

        generator = torch.Generator().manual_seed(0)

        def moments(channels: int) -> Moments:
            mean = torch.randn(channels, generator=generator, dtype=torch.float64)
            return Moments(8, mean, torch.rand(channels, generator=generator, dtype=torch.float64))

        spec = source.spec
        layers = [
            LayerMoments(moments(own.num_attention_heads * spec.head_dim), moments(own.intermediate_size))
            for own in spec.layers
        ]
        record = CalibrationRecord("boolq", source.name, source.digest, 0, 64, 8, ("aa",), ("bb",), ())
        folder: Path = tmp_path_factory.mktemp("calibration")
        write_calibration(folder, record, layers)
        return Calibration(folder)

    return write
