"""The options of how an answer is generated, for `Variant.generate` and the commands alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seap_export.common.options import option, options
from seap_export.common.values import Given, Mismatch, Several

if TYPE_CHECKING:
    from seap_export.runtime import Sampling


class PromptGiven(Given[str | Sequence[Mapping[str, Any]], Any]):
    """A text, or a list of messages."""

    @classmethod
    def read(cls, value: object) -> Any:
        if not isinstance(value, str | Sequence) or isinstance(value, bytes):
            raise Mismatch("a text, or a list of messages with role and content")
        return value


@options
class PromptOptions:
    """The option for the prompt."""

    prompt: PromptGiven = option(
        "A text, or a list of messages with `role` and `content`. For a chat model, a text becomes a user's turn in "
        "its chat template, unless the variant was made from plain texts; any other model continues it.",
        kw_only=False,
    )


@options
class AnswerOptions:
    """The options of how long an answer is, and how its tokens are chosen."""

    max_new_tokens: int = option("Largest number of tokens to generate.", default=64, kw_only=False)
    system: str | None = option("System prompt, before the user's turn.", default=None, metavar="TEXT")
    raw: bool | None = option(
        "Continue the prompt as it is, or put it into the model's chat template.",
        default=None,
        unset="as in the texts that the variant was made from",
        off="template",
        python="Whether a text is continued as it is, without the chat template; None: as in the texts that the "
        "variant was made from.",
    )
    stop: Several[str] = option(
        "End the answer before this text. Repeatable.",
        default=(),
        python="Text or texts before the first of which the answer ends.",
        metavar="TEXT",
    )
    temperature: float = option(
        "Temperature of the sampling; at 0, each token is the most likely one.", default=0.0, metavar="T"
    )
    top_k: int | None = option("Sample from the K most likely tokens.", default=None, unset="all", metavar="K")
    top_p: float | None = option(
        "Sample from the most likely tokens whose probabilities add up to P.", default=None, unset="all", metavar="P"
    )
    min_p: float = option(
        "Sample from tokens at least P times as likely as the most likely one.", default=0.0, unset="all", metavar="P"
    )
    repetition_penalty: float = option(
        "Make tokens that have come less likely: above 1, such as 1.1.", default=1.0, unset="no penalty", metavar="R"
    )
    seed: int = option("Seed of the sampling.", default=0)

    @property
    def sampling(self) -> Sampling:
        """How tokens are chosen; raises `UsageError` if a value is out of range or has no effect."""
        from seap_export.runtime import Sampling

        top_p = 1.0 if self.top_p is None else self.top_p
        return Sampling(self.temperature, self.top_k, top_p, self.seed, self.min_p, self.repetition_penalty)


@options
class GenerateOptions(AnswerOptions, PromptOptions):
    """All options of `Variant.generate`."""
