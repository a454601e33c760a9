"""The interface of all runtimes: `Runner`, what some runners can do besides, and the rows of the runtime table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError, ParityFailure, SeapError, in_one_line
from validation.execution import Execution
from validation.runtimes.timing import Pace

if TYPE_CHECKING:
    from seap_export.model.families import ModelSpec
    from validation.session_memory import Calls

#: float32; of a prompt [rows, tokens, vocabulary], of a step [rows, vocabulary].
Logits = NDArray[np.float32]
#: The states of a layer by name, float32: `key` and `value` are [KV heads, tokens, head_dim], `conv` is [channels,
#: tokens that a kernel sees before the next one].
States = Mapping[str, NDArray[np.float32]]
#: The states that have a place for each token.
PER_TOKEN = ("key", "value")
#: The states of each layer that has any.
Layers = Iterator[States]
#: Log-probabilities are those of the whole vocabulary, up to a constant for each token.
Gives = Literal["logits", "log-probabilities"]
#: What libraries raise that cannot load or run something.
_LIBRARY_ERRORS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError, OSError)
#: Why a folder is opened: to compare what it computes, exactly and with the logits that it gives; to score texts, as
#: exactly and with the logits of all tokens; to answer prompts; or to be timed as its runtime serves it, with the
#: runtime's own choice of how exactly it computes and caches.
Purpose = Literal["compared", "scored", "asked", "served"]
#: Tokens that rows must share for a pass of their own to take less time than it saves.
_WORTH_A_PASS = 8
#: The mean KL divergence, and the largest difference of a logit.
Figure = Literal["kl", "difference"]


def padded(prompts: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Prompts for `Runner.prefill`, int64 [B, longest], padded on the right with token 0, which the mask hides."""
    input_ids = np.zeros((len(prompts), max(map(len, prompts))), np.int64)
    for row, ids in zip(input_ids, prompts, strict=True):
        row[: len(ids)] = ids
    return input_ids


def real_lengths(input_ids: NDArray[np.int64], lengths: Sequence[int]) -> NDArray[np.int64]:
    """The lengths that `Runner.prefill` was given, int64 [B]; raises `ValueError` where they do not fit the ids."""
    real = np.asarray(lengths, np.int64)
    if real.shape != input_ids.shape[:1] or real.min() < 1 or real.max() > input_ids.shape[1]:
        raise ValueError(f"lengths {list(lengths)} do not fit input_ids of shape {list(input_ids.shape)}")
    return real


def common_start(input_ids: NDArray[np.int64], lengths: Sequence[int]) -> int:
    """Number of tokens that all rows begin with, such as examples before each question, as far as each has one more.

    0: too few of them to run once for all rows.
    """
    shortest = min(lengths)
    differs = (input_ids[:, :shortest] != input_ids[0, :shortest]).any(axis=0)
    common = min(int(np.append(differs, True).argmax()), shortest - 1)
    return common if len(lengths) > 1 and common >= _WORTH_A_PASS else 0


@contextmanager
def reported(what: str, kind: type[SeapError] = ParityFailure) -> Iterator[None]:
    """Says what a library does not do, where it raises an error; an `ArtifactError` says what helps."""
    try:
        yield
    except _LIBRARY_ERRORS as error:
        remedy = "; export again" if kind is ArtifactError else ""
        raise kind(f"{what}: {in_one_line(error)}{remedy}") from error


class Runner(ABC):
    """Runs one generation after another; `prefill` starts a new one, `append` and `step` continue it with its cache.

    Attributes:
        runtime: Its name on the command line and in reports.
        extra: The extra of this package that installs it; None: our own dependencies, or no Python package.
        gives: Whether its methods return logits or log-probabilities.
        batches: Whether the rows of a batch run together, and not one after the other.
    """

    runtime: ClassVar[str]
    extra: ClassVar[str | None] = None
    gives: ClassVar[Gives] = "logits"
    batches: ClassVar[bool] = True

    @abstractmethod
    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int], room: int = 0) -> Logits:
        """Runs prompts from an empty cache.

        Args:
            input_ids: int64 [B, S], padded on the right with any token.
            lengths: The real tokens of each row, 1 to S; what is returned after them means nothing.
            room: How many tokens may be appended to a row.

        Returns:
            [B, S, V], or [B, 1, V] where the model gives the logits of each row's last token only.

        Raises:
            ParityFailure: The model does not run.
            EnvironmentFailure: Memory runs out, or a library is missing.
        """

    @abstractmethod
    def append(self, input_ids: NDArray[np.int64]) -> Logits:
        """Appends tokens, int64 [B, S], all of them real; what it gives and raises is as for `prefill`.

        Several tokens at once are appended to a single row only, which is all that some graphs can do.
        """

    def step(self, next_ids: Sequence[int]) -> Logits:
        """Appends one token to each row [B]; gives [B, V] and raises what `prefill` does."""
        return self.append(np.asarray(next_ids, np.int64)[:, None])[:, -1]

    def cache(self, row: int) -> Layers | None:
        """Yields the states of each layer that has any, of the real tokens of a row; see `States`.

        None: the runtime does not show its cache.
        """
        return None

    @abstractmethod
    def close(self) -> None:
        """Frees memory and ends processes; nothing runs after it."""


@runtime_checkable
class TimesItself(Protocol):
    """A runner that times itself, because its calls take longer than what they call; `pace_of` times the others."""

    def timed(self, prompt: Sequence[int], steps: int) -> Pace:
        """Runs a prompt and `steps` more tokens, each the most likely one; it raises what `Runner.prefill` does."""
        ...


@runtime_checkable
class Follows(Protocol):
    """A runner that generates by itself, because each of its steps computes the whole text again."""

    def follow(self, prompts: Sequence[Sequence[int]], steps: int) -> list[list[int]]:
        """The `steps` most likely tokens that follow each prompt, on after a token that ends a text.

        Fewer follow where the context is full; it raises what `Runner.prefill` does.
        """
        ...


@runtime_checkable
class Keeps(Protocol):
    """A runner whose batch can get smaller while it generates."""

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with these rows alone, in this order."""


@runtime_checkable
class Fills(Protocol):
    """A runner that can begin behind tokens which it has not computed."""

    def fill(self, states: Iterator[States], tokens: int, room: int) -> None:
        """Starts a generation of one row with a cache of made-up keys and values; `append` continues it.

        Args:
            states: The keys and values of each layer that has any, [KV heads, tokens, head_dim].
            tokens: Number of tokens whose keys and values these are.
            room: How many tokens may be appended.
        """


@runtime_checkable
class Bounded(Protocol):
    """A runner of a file that takes shorter texts than its model.

    Attributes:
        context_length: The most tokens of a text.
    """

    context_length: int


@dataclass(frozen=True)
class Opening:
    """How a folder is opened.

    Attributes:
        in_float_of: The model, if rounded weights are to be dequantised first, so that activations are not rounded.
    """

    execution: Execution = Execution()
    purpose: Purpose = "compared"
    calls: Sequence[Calls] = ()
    in_float_of: ModelSpec | None = None


@dataclass(frozen=True)
class Runtime:
    """A row of the runtime table, which names code as MODULE:NAME, so that reading it imports none.

    Attributes:
        opener: A function that opens a written folder: called with the folder and an `Opening`, it gives a `Runner`.
        extra: The extra of this package that installs it; None: our own dependencies, or `check` says.
        check: A function that raises `EnvironmentFailure` where the runtime is missing and no extra tells; None: the
            packages of the extra are all that it needs.
        candidate: The `RuntimeCandidate` of its parity.
        rounds_rows: Whether it rounds activations with a scale and a zero point for each token, and not in blocks, as
            XNNPACK does for rounded weights. Then it also runs in float32.
        context: A function that gives the tokens that a text may have, called with the `ModelSpec`; None: those
            of the model.
        arithmetic: A function that gives the `Precision` in which it computes, called with the format and the
            `ModelSpec`; None: that of the format.
        texts: A function that opens the folder's tokenizer, called with the folder: it gives a `RuntimeTexts`. None:
            the runtime has transformers' tokenizer, with which others are compared.
        title: Its name in messages and reports; "": its name on the command line.
        traces: Whether `--bisect` can follow a difference into a folder that it runs.
        has_providers: Whether it runs on the execution provider that is asked for; others run on the CPU alone.
        claim: A function that says what memory it will take, and refuses what does not fit: called with the arguments
            of `validation.runtimes.table.claim_runtime` but for the name. None: it cannot tell.
        memory: A function that estimates what memory it will take: called with the arguments of
            `validation.runtimes.table.memory_about` but for the name. None: it cannot tell.
        version: Its version, if no extra tells it; None: it is not reported.
        shows_rounding: In which of parity's figures it rounds activations as it does for users, if it rounds any.
    """

    opener: str
    extra: str | None = None
    check: str | None = None
    candidate: str = "validation.parity.candidates.candidate:RuntimeCandidate"
    rounds_rows: bool = False
    context: str | None = None
    arithmetic: str | None = None
    texts: str | None = None
    title: str = ""
    traces: bool = False
    has_providers: bool = False
    claim: str | None = None
    memory: str | None = None
    version: str | None = None
    shows_rounding: tuple[Figure, ...] = ("kl", "difference")
