"""Several turns with a variant, whose keys and values stay between them."""

from __future__ import annotations

from collections.abc import Sequence

from seap_export.errors import UsageError
from seap_export.runtime.chat import Message, Prompt
from seap_export.runtime.decoding.prefix import PrefixCache
from seap_export.runtime.decoding.sampling import GREEDY, Sampling
from seap_export.runtime.generator import Generator, Stream

#: What stands between turns where no chat template renders them, as in the texts of calibration.
_BETWEEN = "\n\n"


class Dialogue:
    """A conversation so far, and the next answer in it.

    Example:
        dialogue = Dialogue(Generator("pruned/support-0.2/onnx"))
        stream = dialogue.ask("My parcel is late.", 256)
        dialogue.add("My parcel is late.", "".join(stream))
    """

    def __init__(self, generator: Generator, system: str | None = None, *, raw: bool | None = None) -> None:
        """Starts without a turn.

        Args:
            generator: The opened variant.
            raw: Whether turns are plain texts, joined by blank lines; None: as the variant takes texts.

        Raises:
            UsageError: A system prompt is given without a chat template to put it in.
        """
        template = generator.chat_template
        self._is_raw = template is None or bool(raw) or (raw is None and not template.takes_texts and system is None)
        if system is not None and self._is_raw:
            lacking = "this model has no chat template" if template is None else "raw texts have no chat template"
            raise UsageError(f"{lacking}, which a system prompt needs; leave it out")
        self._generator, self._cache = generator, PrefixCache(generator.decoder)
        self._before: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[tuple[str, str]] = []

    def ask(self, text: str, max_new_tokens: int, sampling: Sampling = GREEDY, *, stop: Sequence[str] = ()) -> Stream:
        """The answer to a text after all turns so far, in pieces; raises the errors of `Generator.stream`."""
        prompt, raw = self._prompt(text), self._is_raw
        return self._generator.stream(prompt, max_new_tokens, sampling, raw=raw, stop=stop, cache=self._cache)

    def add(self, text: str, answer: str) -> None:
        """Remembers a turn and its answer, which may be incomplete."""
        self._turns.append((text, answer))

    def reset(self) -> None:
        """Forgets all turns; the system prompt stays."""
        self._turns.clear()

    def _prompt(self, text: str) -> Prompt:
        if self._is_raw:
            return _BETWEEN.join([*(part for turn in self._turns for part in turn), text])
        roles = ("user", "assistant")
        turns = [
            {"role": role, "content": part} for turn in self._turns for role, part in zip(roles, turn, strict=True)
        ]
        return [*self._before, *turns, {"role": "user", "content": text}]
