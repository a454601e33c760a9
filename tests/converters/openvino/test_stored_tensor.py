"""Matrices of integers, as an IR stores them."""

from __future__ import annotations

import numpy as np
import torch
from support.plans import random_projection
from support.product import BlockQuantization, round_columns

from converters.openvino.stored_tensor import dequantized, integers


def test_a_matrix_that_was_rounded_before_keeps_its_weights() -> None:
    how = BlockQuantization(4)
    weight, moment = random_projection(80, tokens=300, out=12)
    rounded = round_columns(weight, moment, how)
    numbers, scales = integers("w", (12, 80), how, lambda: rounded)
    stored = np.concatenate(list(numbers.write()))
    steps = np.concatenate(list(scales.write())).view(np.float16).reshape(12, -1, 1)
    assert torch.equal(torch.from_numpy(dequantized(stored, steps, (12, 80), "i4")), rounded)
