"""The target to which a sublayer's output projection is fitted, so that the shrunk stream returns to the dense one.

A sublayer adds m N(W x) to the stream, m its multiplier. Let h be the shrunk stream before it, h* the dense
one after it.

Without a norm after it, h + m W' x = h* asks for the product (h* - h) / m, of every token alike.

With one, N(z) = g z / s(z), s the root mean square. It depends on the length of z only through s, so the problem is
not linear; it is linearised at the dense product z*. With e the error of the stream before the sublayer (dense minus
shrunk), N(z) is N(z*) + g (z - z*) / s(z*) to first order, where the change of s is left out: it only takes back what
lies along z*. The stream's squared error becomes m² / s² |g (z - z* - s e / (m g))|². So each token weighs 1 / s², the
target is z* + s e / (m g), and the rows of W' are still fitted one by one, with no need to know g² in their ridge.
Where |g| is small, an error could only be corrected by a large product, which would change s: there, a tenth of the
root mean square of g takes its place.

The next sublayer divides the stream by its length, so that an error of a long one costs less: each token weighs
1 / |h*| besides. Otherwise the few tokens whose hidden states are a hundred times as long as the others', mostly the
first of each text, would decide the fit alone. With 1 / |h*|² they would hardly count, but all others attend to them:
the squared gradients of predictions fall with |h*| to the power of 0.6 to 1.2 (docs/research/method.md).

If what a sublayer writes is held, h is nothing, and all tokens count alike. What is normalised with it goes through a
second norm, which is linearised alike: g and 1 / s are then those of both norms, and what is held in the dense model
and not in the shrunk one adds to the error.
"""

from __future__ import annotations

import torch

from seap_export.model.families.names import Projection
from seap_export.model.layers.hidden_states import SublayerOutput
from seap_export.model.layers.layer import DecoderLayer

#: The smallest gain that an error is divided by, as a fraction of the gains' root mean square.
_SMALLEST_GAIN = 0.1


def refit_target(
    dense: DecoderLayer, output: Projection, passed: SublayerOutput, shrunk: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | float]:
    """The product that the shrunk sublayer should give for each token, and the token's weight.

    Args:
        shrunk: The shrunk hidden states before it, float32 [tokens, width].

    Returns:
        float32 [tokens, hidden_size], and float32 [tokens], whose scale does not matter, or 1.0.
    """
    target, factors = _target(dense, output, passed, shrunk)
    if dense.spec.is_held(output):
        return target, factors
    lengths = passed.stream.norm(dim=1)
    return target, torch.where(lengths > 0.0, factors / lengths, 0.0)


def _target(
    dense: DecoderLayer, output: Projection, passed: SublayerOutput, shrunk: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | float]:
    """The target and weights of `refit_target` if all errors of the stream counted alike, whatever its length."""
    held, shrunk = dense.held(output, shrunk), dense.before(output, shrunk)
    gain, multiplier = dense.gain(output), dense.spec.named(output).multiplier
    if gain is None:
        distance = passed.stream - shrunk
        return (distance if multiplier == 1.0 else distance / multiplier), 1.0
    error = passed.stream - passed.update - shrunk
    if held is not None and passed.held is not None:
        error = error + dense.passed_on(output, passed.product, passed.held, passed.held - held)
    factor = dense.factor(output, passed.product, passed.held)
    smallest = _SMALLEST_GAIN * gain.square().mean().sqrt()
    divisor = torch.where(gain.abs() < smallest, torch.copysign(smallest, gain), gain)
    return passed.product + error / (factor * divisor), factor[:, 0].square()
