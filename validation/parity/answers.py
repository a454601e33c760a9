"""Checks what `seap-export generate` writes with its own decoding loop, for several prompts at once and streamed.

The generated tokens become the decode steps of the batch, so that torch computes the logits that each of them should
be chosen by. The logits from the loop's own caches and masks are compared with these, and each token must be the most
likely one by the loop's logits. So a tie between two tokens is no failure, however torch decides it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError, InputError, ParityFailure
from seap_export.runtime.decoding.decoder import OnnxDecoder
from seap_export.runtime.decoding.sampling import GREEDY
from seap_export.runtime.generator import Generator, Row, Stream
from seap_export.runtime.text import INCOMPLETE
from validation.array_store import ArrayStore, StoredArray
from validation.metrics import CLEAR_MARGIN
from validation.parity.compared import Compared, add_step
from validation.parity.profiles import Pass
from validation.parity.references import Reference, TokenSequence, sequences_of
from validation.prompts import Case, TokenIds

#: The case's name in reports.
GENERATE = "generate"


@dataclass(frozen=True)
class Answers:
    """The tokens that `generate` wrote after the prompts of a case, and their logits.

    Attributes:
        logits: For each row the logits that its tokens were chosen by, [tokens, V].
    """

    case: Case
    logits: tuple[StoredArray, ...] = ()
    complaints: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def write_answers(
    open_generator: Callable[[], Generator], case: Case, ends: Collection[int], store: ArrayStore
) -> Answers:
    """Lets a generator answer the prompts of a case, as many tokens as it has decode steps."""
    steps = len(case.forced[0])
    try:
        generator = open_generator()
        noted = _noted(generator.decoder)
        written = generator.generate_ids_batch(case.rows, steps)
        computed = [np.stack([logits[row] for logits in noted[: len(new)]]) for row, new in enumerate(written)]
        # In a batch, kernels add up in another order, and what they round to 8 bits may be another number.
        noted.clear()
        (alone,) = generator.generate_ids_batch(case.rows[:1], steps)
        of_alone = np.stack([logits[0] for logits in noted[: len(alone)]])
        stream = Stream(generator, Row(generator, case.rows[0], steps, GREEDY), steps)
        pieces = list(stream)
    except (ArtifactError, InputError, ParityFailure) as error:
        return Answers(case, complaints=(f"generate: {error}",))
    complaints = [
        *_wrong_ends(generator.ends, ends),
        *(line for row, new in enumerate(written) for line in _wrong_choices(row, new, computed[row], ends, steps)),
        *_wrong_stream(stream, pieces, generator, case.rows[0], alone, of_alone),
    ]
    if max(map(len, written)) < 2:  # there is no step to compare
        remark = "every text that generate wrote ended at its first token, whose logits were not compared"
        return Answers(case, (), tuple(complaints), (remark,))
    rows = [
        tuple(token if token is not None else planned for token, planned in zip_longest(new, forced))
        for new, forced in zip(written, case.forced, strict=True)
    ]
    return Answers(replace(case, forced=tuple(rows)), tuple(map(store.put, computed)), tuple(complaints))


def compare_answers(
    answers: Answers, run: Pass, references: Mapping[TokenSequence, Reference], store: ArrayStore
) -> Iterator[Compared]:
    """Yields the comparison of the answers' logits with torch's; nothing if the answers have no logits."""
    if not answers.logits:
        return
    compared = Compared(replace(answers.case, name=GENERATE), run)
    for row, (sequence, stored) in enumerate(zip(sequences_of(answers.case), answers.logits, strict=True)):
        computed, forced = store.get(stored), answers.case.forced[row]
        wanted = store.get(references[sequence].logits)[-len(forced) - 1 :]
        first = len(answers.case.rows[row]) - 1
        compared.prefill.update(wanted[:1], computed[:1], row=row, first_position=first, following=forced[:1])
        for step in range(len(computed) - 1):
            add_step(compared, row, step, wanted[step + 1], computed[step + 1])
    yield compared


def _noted(decoder: OnnxDecoder) -> list[NDArray[np.float32]]:
    """Patches a decoder so that it appends the logits of each call, [rows, V], to the list that is returned."""
    noted: list[NDArray[np.float32]] = []
    start = decoder.start

    def starting(prompts: Sequence[TokenIds], *options: Any) -> Any:
        decoding = start(prompts, *options)
        noted.append(decoding.logits.copy())  # the next step may overwrite them
        step = decoding.step

        def stepping(tokens: Sequence[int], is_active: Sequence[bool] | None = None) -> None:
            step(tokens, is_active)
            noted.append(decoding.logits.copy())

        decoding.step = stepping  # type: ignore[method-assign]
        return decoding

    decoder.start = starting  # type: ignore[method-assign, assignment]
    return noted


def _wrong_ends(generators: Collection[int], ends: Collection[int]) -> Iterator[str]:
    if set(generators) != set(ends):
        yield f"generate ends a text at the tokens {sorted(generators)}, and the model at {sorted(ends)}"


def _wrong_choices(
    row: int, new: Sequence[int], logits: NDArray[np.float32], ends: Collection[int], steps: int
) -> Iterator[str]:
    """Yields a complaint where a token is not the most likely one, or where the text ends too early or too late."""
    for step, (token, best) in enumerate(zip(new, logits.argmax(axis=1).tolist(), strict=True)):
        if token != best:
            yield f"generate wrote token {token} in row {row}, step {step}, where its own logits say {best}"
            return
    end = next((step for step, token in enumerate(new, 1) if token in ends), steps)
    if len(new) != end:
        yield f"generate ended row {row} after {len(new)} tokens, and should have after {end}"


def _wrong_stream(
    stream: Stream,
    pieces: Sequence[str],
    generator: Generator,
    prompt: TokenIds,
    alone: Sequence[int],
    logits: NDArray[np.float32],
) -> Iterator[str]:
    """Yields complaints if a stream has other text than its tokens, or other tokens than `alone` but for a tie."""
    pairs = enumerate(zip_longest(stream.token_ids, alone))
    step = next((step for step, (one, other) in pairs if one != other), None)
    if step is not None:
        given = [ids[step] for ids in (stream.token_ids, alone) if step < len(ids)]
        if len(given) < 2 or abs(float(logits[step, given[0]] - logits[step, given[1]])) > CLEAR_MARGIN:
            yield f"generate streams other tokens than it writes at once, from step {step} on"
    decode, ids = generator.tokenizer.decode, stream.token_ids
    before, *texts = (decode([*prompt, *ids[:count]]) for count in range(len(ids) + 1))
    whole = texts[-1] if texts else before
    # Where a byte is of no character, some decoders take back what bytes before it gave, which a stream cannot.
    is_kept = all(whole.startswith(text) for text in (before, *texts) if not text.endswith(INCOMPLETE))
    if is_kept and whole.startswith(before) and "".join(pieces) != whole[len(before) :]:
        yield f"generate streams the text {''.join(pieces)!a:.60}, whose tokens are {whole[len(before) :]!a:.60}"
