"""The request of an evaluation, checked before any work begins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from importlib import metadata

from seap_export.common.options import options
from seap_export.common.providers import OWN_FORMAT, OWN_RUNTIME
from seap_export.common.toml_file import either
from seap_export.corpus import Task
from seap_export.errors import UsageError
from seap_export.model.layers.compute import Compute
from seap_export.pipeline.folder.names import HF
from seap_export.pipeline.request.options import EvaluationOptions
from seap_export.pipeline.request.settings import refuse_below
from validation.execution import Execution
from validation.runtimes.table import REFERENCE, RUNTIMES, runtime_versions, with_providers

#: What these runtimes run of a variant, which reports call by the folder's name.
RUN_FOLDERS: Mapping[str, str] = {REFERENCE: HF, OWN_RUNTIME: OWN_FORMAT}


@options
class EvaluationRequest(EvaluationOptions):
    """How to compare a variant with its dense model.

    Attributes:
        runtimes: Runtimes to run: torch and our own run the folders in `RUN_FOLDERS`, and others the first
            folder that they take.
        folders: Folders of the variant that are run instead, by name, with the runtime of each; empty: none.
        texts: Corpora for the divergence; empty: the held-out texts of the variant's tasks.
        zero_shot: Task files with choices, for zero-shot accuracy.
        harness_tasks: Names of lm-evaluation-harness tasks.
        generate: Task files whose answers are generated.
        threads: Threads of torch and ONNX Runtime; None: all cores.
        provider: ONNX Runtime's execution provider; torch runs on the CPU.
    """

    runtimes: tuple[str, ...] = field(default=(REFERENCE,), kw_only=False)
    folders: tuple[tuple[str, str], ...] = ()
    texts: tuple[Task, ...] = ()
    zero_shot: tuple[Task, ...] = ()
    harness_tasks: tuple[str, ...] = ()
    generate: tuple[Task, ...] = ()
    threads: int | None = None
    provider: str = "cpu"

    def __post_init__(self) -> None:
        if not self.runtimes or len(set(self.runtimes)) != len(self.runtimes):
            raise UsageError("--runtime must name at least one runtime, each once")
        if self.provider != "cpu" and not with_providers(self.runtimes):
            having = either(with_providers(RUNTIMES))
            raise UsageError(f"--provider {self.provider} has no effect without {having}; add --runtime {having}")
        refuse_below(self, limit=1, max_length=2, batch_size=1, threads=1, max_new_tokens=1)
        for name, limit in (("max_kl", self.max_kl), ("min_accuracy_retained", self.min_accuracy_retained)):
            if limit is not None and not (0.0 <= limit < math.inf):
                raise UsageError(f"--{name.replace('_', '-')} {limit:g} is out of range; give 0 or more")
        names = [*(task.name for task in (*self.zero_shot, *self.generate)), *self.harness_tasks]
        if len(set(names)) != len(names):
            raise UsageError("two tasks have the same name; rename or remove one")
        if self.min_accuracy_retained is not None and not names:
            raise UsageError("--min-accuracy-retained needs a task; add --zero-shot, --harness-task or --generate")

    def of_folders(self, folders: Sequence[tuple[str, str]]) -> EvaluationRequest:
        """A copy that runs some folders of a variant, each with its runtime; not every runtime has providers."""
        runtimes = tuple(dict.fromkeys(runtime for _, runtime in folders))
        provider = self.provider if with_providers(runtimes) else "cpu"
        return replace(self, runtimes=runtimes, folders=tuple(folders), provider=provider)

    @property
    def fixed_folders(self) -> tuple[str, ...]:
        """The folders of `RUN_FOLDERS` that are run, or the folders that are run in their place."""
        if self.folders:
            return tuple(folder for folder, runtime in self.folders if runtime in RUN_FOLDERS)
        return tuple(RUN_FOLDERS[name] for name in self.runtimes if name in RUN_FOLDERS)

    @property
    def tokenizer_folder(self) -> str:
        """The folder of the variant whose tokenizer all models are given the tokens of."""
        return next(iter(self.fixed_folders), HF)

    @property
    def run_names(self) -> list[str]:
        """The names of a variant's runs in progress messages and dry runs."""
        if self.folders:
            return [folder for folder, _ in self.folders]
        return [RUN_FOLDERS.get(name, name) for name in self.runtimes]

    def execution(self, compute: Compute | None) -> Execution:
        """The provider, threads and torch device that models are run with."""
        return Execution(self.provider, self.threads, compute)

    @property
    def needs_harness(self) -> bool:
        """Whether the lm-evaluation-harness is needed: zero-shot accuracy is measured."""
        return bool(self.zero_shot or self.harness_tasks)

    @property
    def asks_questions(self) -> bool:
        """Whether a model answers questions, which a dense model alone can do."""
        return self.needs_harness or bool(self.generate)

    def versions(self) -> dict[str, str]:
        """The versions of torch, transformers and the other libraries that the evaluation uses, by name."""
        import torch
        import transformers

        used = {"torch": torch.__version__, "transformers": transformers.__version__}
        for name in self.runtimes:
            used |= {} if name == REFERENCE else runtime_versions(name)
        if self.asks_questions:
            used["lm_eval"] = metadata.version("lm_eval")
        return used
