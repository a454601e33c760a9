"""A variant: its figures, its folders, and the text that it generates."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seap_export.api.figures import Figures, figures_of
from seap_export.api.generation import GenerateOptions
from seap_export.common.options import method_takes
from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import ArtifactError, UsageError, refuse_less

if TYPE_CHECKING:
    from seap_export.runtime import Generator, Stream


class Variant:
    """A variant that `export` wrote. Nothing is read before it is needed, and `generate` needs no torch.

    Example:
        >>> from seap_export import Variant
        >>> variant = Variant("pruned/maths-0.2")
        >>> answer = variant.generate("What is 12 + 30?")
        >>> variant.figures.kl.mean, variant.figures.formats["onnx"].bytes

    Attributes:
        path: The variant's folder.
        provider: The execution provider that `generate` runs on.
        threads: The threads of `generate`; None: all cores.
    """

    def __init__(self, path: str | os.PathLike[str], *, provider: str = "cpu", threads: int | None = None) -> None:
        """Opens a variant; nothing is read yet.

        Args:
            path: The variant's folder, `OUT/NAME` of an export.
            provider: A key of `PROVIDERS`.
            threads: Threads of ONNX Runtime; None: all cores.
        """
        self.path, self.provider, self.threads = Path(os.path.expanduser(path)), provider, threads

    @classmethod
    def described(cls, path: Path, described: Mapping[str, Any]) -> Variant:
        """A variant whose figures are taken from its description in a validation report."""
        variant = cls(path)
        vars(variant)["figures"] = figures_of(path, described)
        return variant

    def __repr__(self) -> str:
        return f"Variant({os.fspath(self.path)!r})"

    @property
    def name(self) -> str:
        """The name of the variant's folder, such as `maths-0.2`."""
        return self.path.resolve().name

    @property
    def hf(self) -> Path:
        """The path of the model folder, which `transformers.AutoModelForCausalLM.from_pretrained` loads."""
        return self.path / "hf"

    @property
    def onnx(self) -> Path:
        """The path of the folder with the ONNX files, which exists if they were written."""
        return self.path / OWN_FORMAT

    @cached_property
    def figures(self) -> Figures:
        """How much smaller, faster and worse than the dense model the variant is, as the export measured it.

        Raises:
            ArtifactError: There is no such variant, or a report in it is damaged.
        """
        from seap_export.common.json_file import read_artifact
        from seap_export.pipeline.evaluation.quality import recorded_quality
        from seap_export.pipeline.evaluation.speed import recorded_speed
        from seap_export.pipeline.folder.contents import Variant as Contents
        from seap_export.pipeline.gate.report import describe_variant

        contents = Contents(self.path)
        contents.require("hf")
        reports = {name: folder.parity_file for name, folder in contents.folders.items()}
        results = {
            "parity": {name: read_artifact(file) for name, file in reports.items() if file.is_file()},
            "quality": recorded_quality(contents),
            "speed": recorded_speed(contents),
        }
        return figures_of(self.path, describe_variant(contents, contents.export.manifest, results))

    @method_takes(GenerateOptions)
    def generate(self, options: GenerateOptions) -> str:
        """The answer to a prompt, without special tokens.

        Args:
            The fields of `GenerateOptions`.

        Raises:
            UsageError: An argument is out of range, or messages are given for a model without a chat template.
            InputError: The prompt has no tokens, or too many for the model's context.
            ArtifactError: There are no ONNX files, or they are damaged.
            EnvironmentFailure: The provider is not available on this machine, or there is not enough memory.
        """
        return "".join(self._stream(options))

    def predict(
        self, inputs: Sequence[str | Mapping[str, Any]], *, max_new_tokens: int = 64, batch_size: int = 16
    ) -> list[str]:
        """The answers to several inputs, of a variant that has learnt a job.

        Example:
            >>> Variant("pruned/intents-0.6").predict(["Where is my parcel?", {"message": "It is broken."}])
            ['shipping', 'returns']

        Args:
            inputs: Records with the fields that the job is asked with; if it is a single one, also plain texts.
            max_new_tokens: The most tokens of an answer.
            batch_size: How many are answered at once.

        Raises:
            UsageError: The variant has learnt no job, or an argument is out of range.
            InputError: A record lacks a field, or is too long for the model's context.
            ArtifactError: There are no ONNX files, or they are damaged.
            EnvironmentFailure: The provider is not available on this machine, or there is not enough memory.
        """
        refuse_less(1, batch_size=batch_size)
        if self._generator.job is None:
            raise UsageError(
                f"{self.path} has learnt no job; use generate, or export a task as NAME=FILE:INPUT:ANSWER"
            )
        batches = (inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size))
        complete = self._generator.complete
        return [answer.text.rstrip() for batch in batches for answer in complete(batch, max_new_tokens)]

    @method_takes(GenerateOptions)
    def stream(self, options: GenerateOptions) -> Stream:
        """The text of `generate` in pieces, as they come; takes its arguments and raises its errors.

        Returns:
            An iterator, with `token_ids` so far, and at its end with `stop`: why the text ended.
        """
        return self._stream(options)

    def _stream(self, options: GenerateOptions) -> Stream:
        prompt, sampling = options.prompt, options.sampling
        if options.system is not None:
            if options.raw:
                raise UsageError("a system prompt and raw exclude each other; leave one out")
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            prompt = [{"role": "system", "content": options.system}, *turns]
        return self._generator.stream(prompt, options.max_new_tokens, sampling, raw=options.raw, stop=options.stop)

    @cached_property
    def _generator(self) -> Generator:
        from converters.formats import FORMATS
        from seap_export.runtime import Generator
        from seap_export.runtime.files import GRAPH

        folder = self.path / OWN_FORMAT
        if not (folder / GRAPH).is_file():
            title = FORMATS[OWN_FORMAT].title
            raise ArtifactError(f"{self.path}: contains no {OWN_FORMAT}/{GRAPH}; give a variant with {title} files")
        return Generator(folder, self.provider, self.threads)
