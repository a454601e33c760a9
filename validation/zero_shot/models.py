"""Opens an artifact as a model of the lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seap_export.errors import ArtifactError, InputError
from seap_export.runtime.session import open_session
from seap_export.sources.config import read_json
from validation.onnx_runner import OnnxRunner
from validation.quality import Form
from validation.torch_runner import open_torch_model

__all__ = ["open_model"]

OnSequences = Callable[[int, int], None]


@contextmanager
def open_model(
    folder: Path,
    form: Form,
    *,
    tokenizer_folder: Path,
    batch_size: int,
    threads: int,
    on_sequences: OnSequences,
    provider: str = "cpu",
) -> Iterator[Any]:
    """Opens a model folder (`hf`) or an ONNX folder as the harness's `LM`; frees its memory at the end.

    Raises:
        ArtifactError: The folder or its tokenizer is incomplete or cannot be loaded.
    """
    tokenizer = _tokenizer(tokenizer_folder)
    if form == "onnx":
        from validation.zero_shot.onnx_lm import OnnxLM

        positions = _positions(folder)
        runner = OnnxRunner(open_session(folder / "model.onnx", provider, threads))
        yield OnnxLM(runner, tokenizer, max_length=positions, batch_size=batch_size, on_sequences=on_sequences)
        return
    with open_torch_model(folder, threads) as model:
        from validation.zero_shot.hf_lm import CountingHFLM

        yield CountingHFLM(model, tokenizer, batch_size, on_sequences)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # damaged files raise nearly anything, including a bare Exception of `tokenizers`
        raise ArtifactError(f"{folder}: its tokenizer cannot be loaded: {' '.join(str(error).split())}") from error
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise ArtifactError(
            f"{folder}: its tokenizer has neither a BOS nor an EOS token, and tasks need one; add one to the tokenizer"
        )
    return tokenizer


def _positions(folder: Path) -> int:
    """The context length of an ONNX folder's model."""
    try:
        return int(read_json(folder / "genai_config.json")["model"]["context_length"])
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder}: genai_config.json is missing or damaged; convert the model again") from error
