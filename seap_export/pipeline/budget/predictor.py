"""Predicts the size and the speed of candidates from plans, without making them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from converters.format import Format
from seap_export.model.families import ModelSpec
from seap_export.pipeline.budget.prompts import Prompts
from seap_export.pipeline.targets.candidate import RATIO_DIGITS, Candidate, Times
from seap_export.pipeline.targets.first_token import PromptTime
from seap_export.pipeline.targets.targets import Targets
from seap_export.pruning.rounding.grid import USUAL_AVERAGE
from validation.speed.ideal import model_work

#: A predicted size must stay below the target by this share, for what a pruned graph has more nodes.
_MARGIN = 0.003
#: By which share the bytes of nodes that unpack matrices may be wrong.
_UNSURE = 0.1
#: Of a table whose rows have bits of their own: parts that nodes unpack or join, and bytes of a row in two notes.
_TABLE_PARTS, _ROW_BYTES = 5, 2
#: The steps of the ratio, in units of its last digit, where bits are chosen with it: losses add up about alike nearby.
_RATIO_STEP = 50


class Predictor:
    """Predicts sizes and speed-ups of candidates, and corrects both by measurements of others.

    Args:
        beside: Bytes of a candidate's folder besides its weights, as long as none was written in the same way; None:
            only the weights count, so that no folder is smaller.
        prompts: Predicts the time to the first token; None: no target asks for it.
    """

    def __init__(
        self,
        shrunk: Callable[[Candidate], ModelSpec],
        largest: float,
        baseline: Format,
        depth: int,
        beside: Callable[[Candidate], int] | None,
        prompts: Prompts | None = None,
    ) -> None:
        self._shrunk, self._steps, self._depth = shrunk, int(largest * 10**RATIO_DIGITS + 1e-9), depth
        self._baseline_bytes = self._decode_bytes(Candidate(0.0, baseline))
        self._beside, self._baseline, self._prompts = beside, Candidate(0.0, baseline), prompts
        self._more: dict[Candidate, int] = {}
        self._sizes: dict[Candidate, int] = {}
        self._shares: dict[Candidate, float] = {}

    @property
    def ratios(self) -> tuple[float, ...]:
        """All ratios that a candidate may have, ascending."""
        return tuple(round(step / 10**RATIO_DIGITS, RATIO_DIGITS) for step in range(self._steps + 1))

    def bytes(self, candidate: Candidate) -> int:
        """The size of a candidate's folder in bytes: measured if known, else predicted."""
        if candidate in self._sizes:
            return self._sizes[candidate]
        more = self._more.get(candidate.way, self._beside_of(candidate))
        return self._weights(candidate) + self._unpacking(candidate) + more

    def ideal_speedup(self, candidate: Candidate) -> float:
        """The speed-up of a decode step if time were proportional to the bytes that it reads."""
        return self._baseline_bytes / self._decode_bytes(candidate)

    def speedup(self, candidate: Candidate) -> float:
        """The ideal speed-up times the share of it that was reached in the same way."""
        return self.ideal_speedup(candidate) * self._shares.get(candidate.way, 1.0)

    def are_alike(self, one: Candidate, other: Candidate) -> bool:
        """Whether two candidates of a way have the same shapes."""
        return self._shrunk(one) == self._shrunk(other)

    def learn_bytes(self, candidate: Candidate, measured: int) -> None:
        """Records the measured size of a candidate's folder, which corrects predictions for the same way."""
        self._sizes[candidate] = measured
        more, unpacking = measured - self._weights(candidate), self._unpacking(candidate)
        if unpacking:  # where few matrices happened to be unpacked, more may be in the next candidate
            more = max(more - unpacking, self._more.get(candidate.way, self._beside_of(candidate)))
        self._more[candidate.way] = more

    def first_token_ms(self, candidate: Candidate) -> float | None:
        """The predicted milliseconds to the first token; None: no target asks for it."""
        return None if self._prompts is None else self._prompts.ms(candidate, self._shrunk(candidate))

    def prompt_time(self, candidate: Candidate) -> PromptTime:
        """The predicted time to the first token, which a target asks for, beside that of the dense model."""
        ms, dense_ms = self.first_token_ms(candidate), self.first_token_ms(self._baseline)
        assert ms is not None
        assert dense_ms is not None
        return PromptTime(ms, dense_ms / ms)

    def soonest_ms(self, ways: Iterable[Candidate]) -> float | None:
        """The least of `first_token_ms` that any candidate of these ways can have."""
        times = [self.first_token_ms(replace(way.smallest, ratio=self.ratios[-1])) for way in ways]
        return min((ms for ms in times if ms is not None), default=None)

    def smallest_bytes(self, ways: Iterable[Candidate]) -> int:
        """The least of `bytes` that any candidate of these ways can have."""
        return min(self.bytes(replace(way.smallest, ratio=self.ratios[-1])) for way in ways)

    def learn_times(self, candidate: Candidate, times: Times) -> None:
        """Records the times of a candidate, which correct predictions for the same way."""
        self._shares[candidate.way] = times.speedup / self.ideal_speedup(candidate)
        if self._prompts is not None and times.prompt is not None:
            self._prompts.learn(candidate, self._shrunk(candidate), times.prompt.ms)
            dense_ms = times.prompt.ms * times.prompt.speedup
            self._prompts.learn(self._baseline, self._shrunk(self._baseline), dense_ms)

    def least_ratio(self, way: Candidate, targets: Targets) -> float | None:
        """The smallest ratio at which size and speed are predicted to meet the targets; None: there is none."""
        ratios = self.ratios
        low, high = -1, len(ratios) - 1
        if not self.meets(replace(way, ratio=ratios[high]), targets):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            meets = self.meets(replace(way, ratio=ratios[middle]), targets)
            low, high = (low, middle) if meets else (middle, high)
        return ratios[high]

    def mixed(self, way: Candidate, targets: Targets) -> Iterator[Candidate]:
        """Candidates whose matrices have bits of their own, which are predicted to meet size and speed.

        With a target for the size, each of some ratios has the most bits that fit; without, each has several.
        """
        for step in range(0, self._steps + 1, _RATIO_STEP):
            pruned = replace(way, ratio=round(step / 10**RATIO_DIGITS, RATIO_DIGITS))
            for average in self._averages(pruned, targets.size):
                candidate = replace(pruned, format=way.format.mixed(average))
                if self.meets(candidate, targets):
                    yield candidate

    def _averages(self, pruned: Candidate, size: int | None) -> list[float]:
        """The average bits that a candidate of this ratio may have."""
        fewest, most = pruned.format.averages
        if size is None:
            quarters = range(math.ceil(4 * fewest), round(4 * USUAL_AVERAGE) + 1)
            return [quarter / 4 for quarter in quarters]
        averages = range(math.ceil(1000 * fewest), math.floor(1000 * most) + 1)

        def exceeds(thousandths: int) -> bool:
            return self._at_most(replace(pruned, format=pruned.format.mixed(thousandths / 1000))) > size

        fitting = bisect_left(averages, True, key=exceeds)
        return [averages[fitting - 1] / 1000] if fitting else []

    def meets(self, candidate: Candidate, targets: Targets) -> bool:
        """Whether a candidate is predicted to meet size and speed."""
        # One that was measured to fit is no smaller than those of the same way with a larger ratio.
        known = (ratio for ratio, size in self._sizes.items() if targets.size is not None and size <= targets.size)
        is_known = any(one.ratio <= candidate.ratio and one == replace(candidate, ratio=one.ratio) for one in known)
        fits = targets.size is None or is_known or self._at_most(candidate) <= targets.size
        return fits and self._is_fast(candidate, targets)

    def _is_fast(self, candidate: Candidate, targets: Targets) -> bool:
        if not targets.of_speed:
            return True
        prompt = None if self._prompts is None else self.prompt_time(candidate)
        return min(targets.margins(self.speedup(candidate), prompt).values(), default=1.0) >= 1.0

    def _at_most(self, candidate: Candidate) -> float:
        """The size that a candidate is not expected to exceed."""
        if candidate in self._sizes:
            return self._sizes[candidate]
        return self.bytes(candidate) / (1.0 - _MARGIN) + _UNSURE * self._unpacking(candidate)

    def _unpacking(self, candidate: Candidate) -> int:
        """The bytes of the nodes that unpack weights of few bits, and of notes of their bits."""
        how, spec = candidate.format.arithmetic.quantization, self._shrunk(candidate)
        if how is None or how.average is None or self._beside is None:
            return 0
        matrices = sum(len(sublayer.rounded(spec.hidden_size, how.block_size)) for sublayer in spec.sublayers)
        # with few bits nearly all matrices are unpacked, with more, those of 4 and 8 bits are not
        share = min(max((6.4 - how.average) / 2, 0.6), 1.0)
        tables = (1 if spec.tie_word_embeddings else 2) if how.splits(spec.vocab_size) else 0
        of_tables = tables * (_ROW_BYTES * spec.vocab_size + _TABLE_PARTS * candidate.format.matrix_bytes)
        return round(candidate.format.matrix_bytes * share * matrices) + of_tables

    def _beside_of(self, candidate: Candidate) -> int:
        return 0 if self._beside is None else self._beside(candidate)

    def _weights(self, candidate: Candidate) -> int:
        spec, precision = self._shrunk(candidate), candidate.format.arithmetic
        vectors = sum(shape[0] for shape in spec.tensors().values() if len(shape) == 1)
        # `size` counts norms and biases like matrices, and a refit adds biases.
        return candidate.format.size(spec) + round(vectors * (precision.dtype_bytes - precision.weight_bytes))

    def _decode_bytes(self, candidate: Candidate) -> float:
        precision = candidate.format.arithmetic
        return model_work(self._shrunk(candidate), precision, 1, self._depth, last_logits=True).decode_bytes
