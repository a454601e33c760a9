"""Reads the small files of an artifact; a damaged file gives a one-line error, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from seap_export.common.json_file import read_artifact
from seap_export.common.providers import PROVIDERS
from seap_export.errors import ArtifactError, InputError
from seap_export.runtime.limits import excess, unique_keys, watched

#: The graph in a folder of the format that is run here.
GRAPH = "model.onnx"


def load_tokenizer(folder: Path) -> Tokenizer:
    """Loads a folder's tokenizer.json, including the special tokens that it adds.

    Padding and truncation are switched off, even if the file enables them.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; export again")
    refuse_excess(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()  # before anything is encoded, since it may pad to any length
        tokenizer.no_truncation()
        encode(tokenizer, "")  # panics if its template uses a token that it does not define
    except BaseException as error:  # `tokenizers` raises a bare Exception, and its panics not even that
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: cannot be loaded ({reason}); it is damaged, export again") from error
    return tokenizer


def refuse_excess(path: Path) -> None:
    """Refuses a tokenizer.json that would take all memory; see `limits`.

    Raises:
        ArtifactError: It would, or it is no JSON.
    """
    try:
        problem = excess(json.loads(path.read_text("utf-8"), object_pairs_hook=unique_keys))
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise ArtifactError(f"{path}: cannot be loaded ({error}); it is damaged, export again") from error
    if problem:
        raise ArtifactError(f"{path}: {problem}; it may be meant to harm, so get the artifact from elsewhere")


def encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """The token ids of a text; raises as `encode_all` does."""
    return encode_all(tokenizer, [text], add_special_tokens=add_special_tokens)[0]


def encode_all(tokenizer: Tokenizer, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[list[int]]:
    """The token ids of texts, within the time that a stranger's tokenizer gets.

    Raises:
        InputError: It takes too long.
    """
    encodings = watched(
        lambda: tokenizer.encode_batch(list(texts), add_special_tokens=add_special_tokens),
        sum(map(len, texts)),
        too_slow,
    )
    return [list(encoding.ids) for encoding in encodings]


def too_slow(seconds: float) -> InputError:
    """The error for a tokenizer that takes too long."""
    return InputError(
        f"the model's tokenizer.json takes more than {seconds:.0f} seconds for a text; it may be meant to harm, so "
        "use the tokenizer of another copy, or other texts"
    )


def model_limits(path: Path) -> tuple[frozenset[int], int]:
    """Reads the end-of-sequence tokens and the context length from a genai_config.json.

    Raises:
        ArtifactError: The file is missing, or lacks either of them.
    """
    model = read_artifact(path).get("model")
    values = model if isinstance(model, dict) else {}
    eos, context = values.get("eos_token_id"), values.get("context_length")
    ids = eos if isinstance(eos, list) else [eos]
    if not ids or not all(isinstance(token, int) for token in ids) or not isinstance(context, int):
        raise ArtifactError(f"{path}: eos_token_id or context_length is missing; the file is damaged, export again")
    return frozenset(ids), context


def decoder_options(path: Path, provider: str, overrides: Mapping[str, str] | None = None) -> dict[str, str]:
    """Provider options to run a decoder with.

    Args:
        path: The genai_config.json. If it names CUDA, and caches that stay in place, steps are captured as CUDA
            graphs; its own `enable_cuda_graph` is for ONNX Runtime GenAI, which cannot run batches with it.
        provider: A key of `PROVIDERS`.
        overrides: Options that take precedence.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    try:
        config: Any = read_artifact(path)
        section = config
        for key in ("model", "decoder", "session_options", "provider_options"):
            section = section.get(key, {})
        by_provider = {name: dict(options) for entry in section for name, options in entry.items()}
        can_be_captured = provider in by_provider and config.get("search", {}).get("past_present_share_buffer")
    except (AttributeError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: its provider options cannot be read; it is damaged, export again") from error
    graph = PROVIDERS[provider].graph_option if provider in PROVIDERS and can_be_captured else None
    return {**({graph: "1"} if graph else {}), **(overrides or {})}
