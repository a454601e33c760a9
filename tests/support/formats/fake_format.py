"""A format and its runtime that tests of the frame use: weights in a file of their own, rows in reversed order."""

from __future__ import annotations

import inspect
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import DynamicCache

from converters.format import Format, Place
from converters.formats import FORMATS, Row
from seap_export.common.json_file import read_json
from seap_export.model.families import ModelSpec, model_spec
from seap_export.model.sources.config import end_tokens
from validation.runtimes.pytorch.torch_runner import TorchRunner
from validation.runtimes.runner import Gives, Layers, Opening, Runner, Runtime
from validation.runtimes.table import RUNTIMES
from validation.runtimes.timing import Pace

FAKE_FILE = "model.fake"
_DTYPES = {"f32": torch.float32, "f16": torch.float16}


@dataclass(frozen=True)
class FakeFormat(Format):
    """Refuses models with MQA; knows the tokens that the config names."""

    name: ClassVar[str] = "fake"
    runtimes: ClassVar[tuple[str, ...]] = ("faked", "faked-too", "clocked")
    precisions: ClassVar[tuple[str, ...]] = ("f32", "f16")
    version: ClassVar[int] = 1
    precision: str = "f32"

    @classmethod
    def read(cls, folder: Path) -> FakeFormat:
        return cls(json.loads((folder / "about.json").read_text("utf-8"))["precision"])

    def refusal(self, spec: ModelSpec, model_folder: Path) -> str | None:
        if not end_tokens(model_folder):
            return "fake needs an EOS token; name one in config.json"
        return None

    def remark(self, spec: ModelSpec) -> str | None:
        return "fake is slow in f16" if self.precision == "f16" else None

    def size(self, spec: ModelSpec) -> int:
        return spec.num_parameters() * _DTYPES[self.precision].itemsize

    def write(self, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
        stored = load_file(model_folder / "model.safetensors")
        tensors = {name: tensor.flip(0).to(_DTYPES[self.precision]).contiguous() for name, tensor in stored.items()}
        save_file(tensors, out_folder / FAKE_FILE)
        config = read_json(model_folder / "config.json")
        shutil.copyfile(model_folder / "config.json", out_folder / "config.json")
        about = {"precision": self.precision, "eos_token_id": config.get("eos_token_id")}
        (out_folder / "about.json").write_text(json.dumps(about), "utf-8")
        for layer in range(len(model_spec(config).layers)):
            on_layer(layer)

    def weights(self, folder: Path, spec: ModelSpec) -> _Weights:
        return _Weights(folder)


class _Weights:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.places: list[Place] = []

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        stored, path = load_file(self._folder / FAKE_FILE), self._folder / FAKE_FILE
        start = 8 + int.from_bytes(path.read_bytes()[:8], "little")
        self.places.append(Place(path, start, path.stat().st_size))
        return {name: stored[name].flip(0).float() for name in names}


class FakeRunner(Runner):
    """Runs each row by itself in torch; a test may set a `fault` in the weights."""

    runtime: ClassVar[str] = "faked"
    fault: ClassVar[Callable[[dict[str, torch.Tensor]], object]] = staticmethod(lambda tensors: None)  # type: ignore[assignment]
    #: Runners that were not closed.
    opened: ClassVar[int] = 0

    def __init__(self, folder: Path, opening: Opening) -> None:
        type(self).opened += 1
        stored = {name: tensor.flip(0).float() for name, tensor in load_file(folder / FAKE_FILE).items()}
        type(self).fault(stored)
        with tempfile.TemporaryDirectory() as scratch:
            shutil.copyfile(folder / "config.json", Path(scratch) / "config.json")
            save_file(stored, Path(scratch) / "model.safetensors", {"format": "pt"})
            self._model = TorchRunner(Path(scratch)).whole_model()
        new_name = "cache" in inspect.signature(type(self._model).forward).parameters  # since transformers 5.24
        self._cache_argument = "cache" if new_name else "past_key_values"

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int], room: int = 0) -> NDArray[np.float32]:
        self._caches = [DynamicCache() for _ in lengths]
        rows = [self._run(row, ids[:length]) for row, (ids, length) in enumerate(zip(input_ids, lengths, strict=True))]
        filled = np.zeros((*input_ids.shape, rows[0].shape[1]), np.float32)
        for row, logits in enumerate(rows):
            filled[row, : len(logits)] = logits
        return filled

    def append(self, input_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._run(0, input_ids[0])[None]

    def step(self, next_ids: Sequence[int]) -> NDArray[np.float32]:
        return np.concatenate([self._run(row, np.array([token])) for row, token in enumerate(next_ids)])

    def cache(self, row: int) -> Layers | None:
        return ({"key": layer.keys[0].numpy(), "value": layer.values[0].numpy()} for layer in self._caches[row].layers)

    def close(self) -> None:
        type(self).opened -= 1

    @torch.no_grad()
    def _run(self, row: int, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        told = {self._cache_argument: self._caches[row], "use_cache": True}
        return np.asarray(self._model(torch.from_numpy(ids[None]), **told).logits[0], np.float32)


class Quiet(FakeRunner):
    """Gives log-probabilities with a constant of its own for each token, and shows no cache."""

    runtime: ClassVar[str] = "faked-too"
    gives: ClassVar[Gives] = "log-probabilities"

    def cache(self, row: int) -> None:
        return None

    def _run(self, row: int, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return super()._run(row, ids) + 3.0 + ids[:, None].astype(np.float32)


class Clocked(FakeRunner):
    """Times itself."""

    runtime: ClassVar[str] = "clocked"

    def timed(self, prompt: Sequence[int], steps: int) -> Pace:
        return Pace(2.0, (0.25,) * steps)


def open_clocked(folder: Path, opening: Opening) -> FakeRunner:
    """A runner that times itself where it is served."""
    return (Clocked if opening.purpose == "served" else FakeRunner)(folder, opening)


def install_fake_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the format and its runtimes to the tables."""
    row = Row(f"{__name__}:FakeFormat", "Fake", FAKE_FILE, "Run `FOLDER`.\n")
    monkeypatch.setitem(FORMATS, "fake", row)  # type: ignore[arg-type]
    monkeypatch.setitem(RUNTIMES, "faked", Runtime(f"{__name__}:FakeRunner", title="Faked"))  # type: ignore[arg-type]
    monkeypatch.setitem(RUNTIMES, "faked-too", Runtime(f"{__name__}:Quiet"))  # type: ignore[arg-type]
    monkeypatch.setitem(RUNTIMES, "clocked", Runtime(f"{__name__}:open_clocked"))  # type: ignore[arg-type]
    monkeypatch.setattr(FakeRunner, "opened", 0)
