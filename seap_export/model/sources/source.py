"""A model to prune: its config, its weights read layer by layer, its tokenizer and a hash of everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from seap_export.common.hashing import sha256_files, sha256_json
from seap_export.errors import InputError
from seap_export.model.families import ModelSpec, names
from seap_export.model.layers.embedding import Embedding
from seap_export.model.layers.head import Head
from seap_export.model.layers.sublayers.norm import Norm
from seap_export.model.sources.cut import KeptRows, cut_tokenizer_files, refuse_lost_tokens
from seap_export.model.sources.weights import WeightReader, main_dtype
from seap_export.model.vocabulary.config import named_tokens, renumbered_config
from seap_export.model.vocabulary.table import Vocabulary

#: Values that are checked at a time, so that what the check takes is little against a tensor.
_CHECKED = 2**20
#: Outer tensors without which a model computes nothing; those of a layer may be zero, which leaves it out.
_NEVER_ZERO = ("embed_tokens", "lm_head", "norm")


@dataclass(frozen=True)
class Source:
    """A dense model on disk; no weight is in memory until `read_layer` or `read_outer` is called.

    Attributes:
        name: Folder, file or hub name, without the path.
        config: config.json of the language model, in the spelling of `portable_config`.
        spec: The shapes that the config describes, which the weights were checked against.
        reader: Reads the weights, in the plain form.
        files: All files that the model consists of.
        write_tokenizer: Writes the tokenizer files into a folder.
        hub_id: OWNER/NAME, if it was downloaded from the hub.
        revision: The commit that was downloaded, if the hub's client says which one it was.
    """

    name: str
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any] | None
    spec: ModelSpec
    reader: WeightReader
    files: tuple[Path, ...]
    write_tokenizer: Callable[[Path], None]
    hub_id: str | None = None
    revision: str | None = None

    @property
    def pinned_id(self) -> str | None:
        """OWNER/NAME@COMMIT, which opens the same files of the hub again; None: the model is not from the hub."""
        return f"{self.hub_id}@{self.revision}" if self.hub_id and self.revision else self.hub_id

    @cached_property
    def dtype(self) -> torch.dtype:
        return main_dtype(self.reader)

    @cached_property
    def _dtypes(self) -> Mapping[str, torch.dtype]:
        return self.reader.dtypes()

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype in which a tensor is stored in a copy: that of most weights if the model lacks it."""
        return self._dtypes.get(name, self.dtype)

    def read_layer(self, layer: int) -> dict[str, torch.Tensor]:
        """Every tensor of a layer by its full name, all finite.

        Raises:
            InputError: A weight is NaN or infinite.
        """
        return self._read(self.spec.layer_tensors(layer))

    def read_outer(self, name: str) -> torch.Tensor:
        """Reads one of `outer_names`, such as the embedding (`embed_tokens`) or the LM head (`lm_head`).

        Raises:
            InputError: A weight is NaN or infinite, or all that there must be are zero.
        """
        full = names.tensor(name)
        tensor = self._read([full])[full]
        if name in _NEVER_ZERO and not tensor.any():
            raise InputError(f"{self.name}: tensor '{full}' holds only zeros; save or download the model again")
        return tensor

    def read_norm(self) -> Norm:
        """Reads the final norm; raises as `read_outer` does."""
        return Norm(self.spec.norm, *map(self.read_outer, self.spec.norm_parts("norm")))

    def read_embedding(self) -> Embedding:
        """Reads the embedding of tokens, and what else `spec.embedding_names` has; raises as `read_outer` does."""
        return Embedding.of({name: self.read_outer(name) for name in self.spec.embedding_names})

    def read_head(self, embedding: Embedding | None = None) -> Head:
        """Reads the LM head; raises as `read_outer` does.

        Args:
            embedding: The embedding, if it is in memory.
        """
        if not self.spec.tie_word_embeddings:
            weight = self.read_outer("lm_head")
        else:
            weight = self.read_outer("embed_tokens") if embedding is None else embedding.tokens
        return Head(weight, self.read_outer("lm_head_bias") if self.spec.lm_head_bias else None)

    def _read(self, wanted: Iterable[str]) -> dict[str, torch.Tensor]:
        tensors = self.reader.read(wanted)
        for name, tensor in tensors.items():
            if not all(torch.isfinite(part).all() for part in tensor.flatten().split(_CHECKED)):
                raise InputError(
                    f"{self.name}: tensor '{name}' holds NaN or infinite weights; download the model again"
                )
        return tensors

    def with_tokens(self, vocabulary: Vocabulary) -> Source:
        """The same model with the kept tokens only, under their new ids: tables, tokenizer and configs.

        Its digest is that of the whole model.

        Raises:
            ArtifactError: A config names a token that is not kept.
        """
        refuse_lost_tokens(vocabulary, named_tokens(self.config, self.generation_config))

        def write_tokenizer(target: Path) -> None:
            self.write_tokenizer(target)
            cut_tokenizer_files(target, vocabulary)

        defaults = self.generation_config
        return replace(
            self,
            config=renumbered_config(self.config, vocabulary),
            generation_config=None if defaults is None else renumbered_config(defaults, vocabulary),
            spec=self.spec.with_tokens(len(vocabulary)),
            reader=KeptRows(self.reader, vocabulary),
            write_tokenizer=write_tokenizer,
        )

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the contents of the model's files, and of their paths in its folder if there are several."""
        hashes = sha256_files(self.files)
        if len(hashes) == 1:
            return hashes[0]
        names = (path.relative_to(self.files[0].parent).as_posix() for path in self.files)
        return sha256_json(dict(zip(names, hashes, strict=True)))

    @property
    def is_hashed(self) -> bool:
        """Whether `digest` is known already, without reading the files."""
        return "digest" in vars(self)
