"""Checks what `seap-export generate` writes with its own decoding loop, for several prompts at once and streamed.

The generated tokens become the decode steps of the batch, which is then decoded as it is served. Each token must be
the most likely one by the logits that the decoder gives there, and these are compared with torch's. So a tie between
two tokens is no failure, however torch decides it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError, InputError, ParityFailure
from seap_export.runtime.decoding.sampling import GREEDY
from seap_export.runtime.generator import Generator, Row, Stream
from validation.metrics import CLEAR_MARGIN
from validation.prompts import Case

#: Nats by which two decodings of the same tokens may differ.
_SAME = 1e-3


@dataclass(frozen=True)
class Answers:
    """The tokens that `generate` wrote after the prompts of a case, whose decode steps they are from now on.

    Attributes:
        written: The tokens of each row; empty: nothing was written.
        streamed: The tokens of the first row alone, as a stream gave them.
        complaints: Defects, in words.
    """

    case: Case
    written: tuple[tuple[int, ...], ...] = ()
    streamed: tuple[int, ...] = ()
    complaints: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def wrong_choices(self, logits: NDArray[np.floating]) -> Iterator[str]:
        """Yields a complaint for each row with a token that is not the most likely by the logits [rows, tokens, V].

        A stream runs alone, where kernels add up in another order; it may differ by a choice that is not clear.
        """
        rows = [(f"in row {row}", tokens, logits[row], _SAME) for row, tokens in enumerate(self.written)]
        pairs = enumerate(zip(self.streamed, *self.written[:1], strict=False))
        apart = next((step for step, pair in pairs if len({*pair}) > 1), None)
        if apart is not None:
            rows.append(("in a stream", self.streamed[: apart + 1], logits[0], CLEAR_MARGIN))
        for where, tokens, of_row, margin in rows:
            for step, (token, values) in enumerate(zip(tokens, of_row, strict=False)):
                if values.max() - values[token] > margin:
                    best = values.argmax()
                    yield f"generate wrote token {token} {where}, step {step}, where its own logits say {best}"
                    break


def write_answers(open_generator: Callable[[], Generator], case: Case, ends: Collection[int]) -> Answers:
    """Lets a generator answer the prompts of a case, as many tokens as it has decode steps."""
    steps = len(case.forced[0])
    try:
        generator = open_generator()
        written = generator.generate_ids_batch(case.rows, steps)
        stream = Stream(generator, Row(generator, case.rows[0], steps, GREEDY), steps)
        for _ in stream:
            pass
    except (ArtifactError, InputError, ParityFailure) as error:
        return Answers(case, complaints=(f"generate: {error}",))
    complaints = []
    if set(generator.ends) != set(ends):
        given, wanted = sorted(generator.ends), sorted(ends)
        complaints.append(f"generate ends a text at the tokens {given}, and the model at {wanted}")
    for row, tokens in enumerate(written):
        end = next((step for step, token in enumerate(tokens, 1) if token in ends), steps)
        if len(tokens) != end:
            complaints.append(f"generate ended row {row} after {len(tokens)} tokens, and should have after {end}")
    forced = (
        tuple(planned if token is None else token for token, planned in zip_longest(tokens, of_row))
        for tokens, of_row in zip(written, case.forced, strict=True)
    )
    answered = replace(case, forced=tuple(forced))
    return Answers(answered, tuple(map(tuple, written)), tuple(stream.token_ids), tuple(complaints))
