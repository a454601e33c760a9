"""Opens an artifact as a model of the lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_json
from seap_export.errors import ArtifactError, InputError
from seap_export.model.sources.config import read_spec
from validation.execution import Execution
from validation.prompts import load_tokenizer
from validation.runtimes.pytorch.torch_runner import open_torch_runner
from validation.runtimes.runner import Bounded
from validation.runtimes.table import REFERENCE, open_runtime
from validation.session_memory import Calls

#: Tokens of a question, as far as memory is concerned; the questions are not known yet.
_TOKENS = 256
OnSequences = Callable[[int, int], None]


@contextmanager
def open_model(
    folder: Path,
    runtime: str,
    *,
    tokenizer_folder: Path,
    batch_size: int,
    on_sequences: OnSequences,
    execution: Execution,
) -> Iterator[Any]:
    """Opens a folder that a runtime takes as the harness's `LM`; its memory is freed at the end."""
    tokenizer = _tokenizer(tokenizer_folder)
    options: Any = {"batch_size": batch_size, "on_sequences": on_sequences}
    if runtime == REFERENCE:
        with open_torch_runner(folder, execution, attention=None) as torch_runner:
            from validation.zero_shot.harness_models import TorchLM

            yield TorchLM(torch_runner, tokenizer, max_length=torch_runner.spec.max_position_embeddings, **options)
        return
    from validation.zero_shot.harness_models import RunnerLM

    positions = _positions(folder) if runtime == "onnxruntime" else read_spec(tokenizer_folder).max_position_embeddings
    tokens = min(_TOKENS, positions)
    calls = [Calls(batch_size, tokens, tokens)]
    with closing(open_runtime(runtime, folder, execution, "scored", calls)) as runner:
        positions = runner.context_length if isinstance(runner, Bounded) else positions
        yield RunnerLM(runner, tokenizer, max_length=positions, **options)


def _tokenizer(folder: Path) -> Any:
    tokenizer = load_tokenizer(folder)
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
