"""The tokenizer of a GGUF file, written as files that transformers and ONNX Runtime GenAI can load.

One module per kind of tokenizer; the rules by which byte-level vocabularies split text are in `byte_level.toml`.
"""

from seap_export.model.sources.gguf.tokenizers.byte_level import split_rules
from seap_export.model.sources.gguf.tokenizers.files import (
    gguf_chat_template,
    gguf_generation_config,
    gguf_tokenizer_files,
    tokenizer_of,
)

__all__ = ["gguf_chat_template", "gguf_generation_config", "gguf_tokenizer_files", "split_rules", "tokenizer_of"]
