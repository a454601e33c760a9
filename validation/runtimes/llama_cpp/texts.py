"""llama.cpp's tokenizer, and its server's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from converters.gguf.file import MODEL_FILE
from validation.runtimes.llama_cpp.runner import LlamaCppRunner
from validation.runtimes.llama_cpp.worker import LlamaOptions
from validation.runtimes.texts import Conversation, RuntimeTexts


class LlamaTexts(RuntimeTexts):
    """llama.cpp's tokenizer and chat template, of which only the latter loads the weights; see `RuntimeTexts`.

    Errors are those of `LlamaCppRunner`.
    """

    known: ClassVar[Mapping[str, str]] = {
        "a whole conversation": "llama.cpp's server lets the model go on with an answer that comes last"
    }

    def __init__(self, folder: Path) -> None:
        self._runner = LlamaCppRunner(folder / MODEL_FILE, LlamaOptions(1, vocabulary_only=True))

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return self._runner.tokenize(text, special=special)

    def decode(self, ids: Sequence[int]) -> str:
        return self._runner.detokenize(ids)

    def render(self, conversation: Conversation) -> str:
        return self._runner.render(conversation.messages, conversation.tools, prompts=conversation.prompts)

    def close(self) -> None:
        self._runner.close()
