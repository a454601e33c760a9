"""llama.cpp's own functions, in the shared library of the package `xllamacpp`.

That package wraps llama.cpp's server; what is needed here, quantising rows and the logits of every position, its C
interface alone gives. The order of the fields of two structures changes between releases of llama.cpp, so their
defaults are compared with what is known before anything else is called, and there is room (`more`) for new fields.

Source: https://github.com/ggml-org/llama.cpp, include/llama.h and ggml/include/ggml.h.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from collections.abc import Callable
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int8, c_int32, c_int64, c_size_t, c_uint32
from ctypes import c_void_p as pointer
from functools import cache
from pathlib import Path
from typing import Any

from seap_export.common.extras import install_remedy
from seap_export.errors import EnvironmentFailure

#: The extra that installs the library.
LIBRARY_EXTRA = "gguf"
_PACKAGE = "xllamacpp"


class ModelParameters(Structure):
    """llama.cpp's structure `llama_model_params`."""

    _fields_ = (
        ("devices", pointer),
        ("tensor_buft_overrides", pointer),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", pointer),
        ("progress_callback", pointer),
        ("progress_callback_user_data", pointer),
        ("kv_overrides", pointer),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
        ("more", c_int64 * 8),
    )


class ContextParameters(Structure):
    """llama.cpp's structure `llama_context_params`."""

    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", pointer),
        ("cb_eval_user_data", pointer),
        ("type_k", c_int),
        ("type_v", c_int),
        ("callbacks", c_int64 * 3),  # left as they are
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", pointer),
        ("n_samplers", c_size_t),
        ("more", c_int64 * 8),
    )


class LlamaBatch(Structure):
    """llama.cpp's structure `llama_batch`: tokens, each with its position and the sequences that it belongs to."""

    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


#: The defaults that the two functions must give, if the fields lie where they are believed to.
_MODEL_DEFAULTS = {"n_gpu_layers": -1, "split_mode": 1, "main_gpu": 0, "vocab_only": False, "use_extra_bufts": True}
_CONTEXT_DEFAULTS = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "rope_scaling_type": -1, "flash_attn_type": -1,
    "yarn_ext_factor": -1.0, "yarn_attn_factor": -1.0, "type_k": 1, "type_v": 1, "embeddings": False,
    "offload_kqv": True, "no_perf": True, "op_offload": True, "swa_full": True, "kv_unified": False, "n_samplers": 0,
}  # fmt: skip
_LogCallback = ctypes.CFUNCTYPE(None, c_int, c_char_p, pointer)
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_quantize_chunk": (c_size_t, (c_int, pointer, pointer, c_int64, c_int64, c_int64, pointer)),
    "llama_backend_init": (None, ()),
    "llama_log_set": (None, (_LogCallback, pointer)),
    "llama_model_default_params": (ModelParameters, ()),
    "llama_context_default_params": (ContextParameters, ()),
    "llama_model_load_from_file": (pointer, (c_char_p, ModelParameters)),
    "llama_model_free": (None, (pointer,)),
    "llama_model_get_vocab": (pointer, (pointer,)),
    "llama_init_from_model": (pointer, (pointer, ContextParameters)),
    "llama_free": (None, (pointer,)),
    "llama_get_memory": (pointer, (pointer,)),
    "llama_memory_clear": (None, (pointer, c_bool)),
    "llama_batch_init": (LlamaBatch, (c_int32, c_int32, c_int32)),
    "llama_batch_free": (None, (LlamaBatch,)),
    "llama_decode": (c_int32, (pointer, LlamaBatch)),
    "llama_get_logits_ith": (POINTER(c_float), (pointer, c_int32)),
    "llama_vocab_n_tokens": (c_int32, (pointer,)),
    "llama_vocab_is_eog": (c_bool, (pointer, c_int32)),
    "llama_tokenize": (c_int32, (pointer, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool)),
    "llama_token_to_piece": (c_int32, (pointer, c_int32, c_char_p, c_int32, c_int32, c_bool)),
    "llama_vocab_type": (c_int, (pointer,)),
    "llama_detokenize": (c_int32, (pointer, POINTER(c_int32), c_int32, c_char_p, c_int32, c_bool, c_bool)),
}


class _Log:
    """Collects the messages of llama.cpp, the last of which explain why something failed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.callback = _LogCallback(self._take)

    def _take(self, level: int, text: bytes | None, _: Any) -> None:
        line = (text or b"").decode("utf-8", "replace").strip()
        if level in (3, 4) and line:  # warnings and errors
            self.lines = [*self.lines[-20:], line]


class LlamaLibrary:
    """The functions of `_SIGNATURES` as attributes, and what llama.cpp said."""

    def __init__(self, path: Path, version: str) -> None:
        self.version = version
        self._library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._log = _Log()
        self._library.llama_log_set(self._log.callback, None)
        self._library.llama_backend_init()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in _SIGNATURES:
            raise AttributeError(name)
        function: Callable[..., Any] = getattr(self._library, name)
        return function

    def last_words(self) -> str:
        """The latest warnings and errors of llama.cpp, on one line; they are forgotten."""
        lines, self._log.lines = self._log.lines, []
        return " ".join(" ".join(lines[-3:]).split())


@cache
def llama_library() -> LlamaLibrary:
    """The library of the installed `xllamacpp`.

    Raises:
        EnvironmentFailure: The package is missing, or is of a release with other structures.
    """
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise EnvironmentFailure(f"llama.cpp's library is missing; {install_remedy(LIBRARY_EXTRA)}")
    version = importlib.metadata.version(_PACKAGE)
    paths = sorted(
        path for path in Path(package.origin).parent.iterdir() if path.suffix in (".so", ".pyd", ".dylib", ".dll")
    )
    try:
        library = LlamaLibrary(paths[0], version)
    except (OSError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise EnvironmentFailure(
            f"{_PACKAGE} {version} does not give llama.cpp's functions ({reason:.120}); "
            f"{install_remedy(LIBRARY_EXTRA)}"
        ) from error
    _check(library.llama_model_default_params(), _MODEL_DEFAULTS, version)
    _check(library.llama_context_default_params(), _CONTEXT_DEFAULTS, version)
    return library


def _check(actual: Structure, expected: dict[str, Any], version: str) -> None:
    for name, value in expected.items():
        if getattr(actual, name) != value:
            raise EnvironmentFailure(
                f"{_PACKAGE} {version} has a llama.cpp with other structures ('{name}' is {getattr(actual, name)!r}, "
                f"not {value!r}); {install_remedy(LIBRARY_EXTRA)}"
            )
