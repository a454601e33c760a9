"""Uploads variants to the Hugging Face hub, each into a repository of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.common.checksums import SUMS, checksums_text, listed_files, read_checksums, refuse_damages
from seap_export.common.hashing import sha256_file
from seap_export.common.json_file import read_artifact
from seap_export.errors import ArtifactError, EnvironmentFailure, UsageError, refuse_missing
from seap_export.model.sources.open import is_hub_id
from seap_export.pipeline.card.text import with_speed
from seap_export.pipeline.evaluation.speed import recorded_speed
from seap_export.pipeline.folder.contents import Export, Variant, open_folder
from seap_export.pipeline.folder.names import CARD, HF, parity_file
from seap_export.pipeline.gate.code import code_damages
from seap_export.pipeline.gate.integrity import list_damages
from seap_export.pipeline.gate.report import ValidationReport
from seap_export.pipeline.gate.request import ValidationRequest
from seap_export.pipeline.gate.validate import validate
from seap_export.pipeline.progress import Progress


@dataclass(frozen=True)
class Upload:
    """The files to upload to one repository."""

    repository: str
    variant: str
    files: Mapping[str, Path | bytes]

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each file in bytes, by its path in the repository."""
        return {
            path: len(file) if isinstance(file, bytes) else file.stat().st_size for path, file in self.files.items()
        }


def plan_uploads(path: Path, repository: str) -> tuple[Upload, ...]:
    """Finds the files to upload for each variant.

    The model folder becomes the top of the repository, where transformers and the hub look for a model and its card;
    the other formats keep their folders, whose lists of files are named by that at the top. Reports, calibration data
    and the router stay here.

    Args:
        path: An output folder, or a variant.
        repository: OWNER/NAME; several variants go to OWNER/NAME-VARIANT.

    Raises:
        UsageError: The path is neither, or the repository's name is not one.
        ArtifactError: The manifest is damaged, or a variant's files are not those of its lists; see `_files`.
    """
    refuse_missing(path)
    if not is_hub_id(repository):
        raise UsageError(f"{repository:.100}: not the name of a repository; give OWNER/NAME")
    contents = open_folder(path)
    if contents is None:
        raise UsageError(f"{path}: neither an export nor a variant; give the folder of one")
    variants = contents.variants if isinstance(contents, Export) else (contents,)
    if not variants:
        raise UsageError(f"{path}: the export has no finished variant; run the same export again")
    names = [repository if len(variants) == 1 else f"{repository}-{variant.name}" for variant in variants]
    return tuple(Upload(name, variant.name, _files(variant)) for name, variant in zip(names, variants, strict=True))


def _files(variant: Variant) -> dict[str, Path | bytes]:
    """The files that the folders' lists of checksums name, by their path in the repository."""
    variant.require(HF)
    refuse_damages(list_damages(variant) or code_damages(variant.path))
    files: dict[str, Path | bytes] = dict(listed_files(variant.hf))
    digests = read_checksums(variant.hf)
    for folder in variant.formats:
        files |= {f"{folder.name}/{path}": file for path, file in listed_files(folder.path).items()}
        digests[f"{folder.name}/{SUMS}"] = sha256_file(folder.path / SUMS)
    card, speed = variant.hf / CARD, recorded_speed(variant)
    if speed is not None and card.is_file():
        files[CARD] = content = with_speed(card.read_text("utf-8"), speed).encode()
        digests[CARD] = hashlib.sha256(content).hexdigest()
    files[SUMS] = checksums_text(digests).encode()
    return files


def gate(path: Path, progress: Progress) -> ValidationReport:
    """Checks what is to be uploaded, as `validate` does.

    Files that are as their export compared them are not run again.

    Raises:
        SeapError: As `validate`.
    """
    contents = open_folder(path)
    variants = contents.variants if isinstance(contents, Export) else () if contents is None else (contents,)
    for variant in variants:
        if variant.records is None:
            raise ArtifactError(
                f"{variant.path}: the texts to check it on are missing, in calibration/ beside it; run 'seap-export "
                f"validate {variant.path} --prompt-file FILE', then push with --force"
            )
    known = {variant.name: _known_parity(variant) for variant in variants if variant.export.exists}
    return validate(path, ValidationRequest(checks=("integrity", "parity", "router")), progress, known)


def _known_parity(variant: Variant) -> dict[str, Any]:
    recorded = variant.export.manifest.variants.get(variant.name, {}).get("parity", {})
    files = {folder: variant.path / parity_file(folder) for folder in recorded}
    return {folder: read_artifact(file) for folder, file in files.items() if file.is_file()}


def upload(planned: Upload, *, public: bool, progress: Progress) -> str:
    """Creates the repository, if there is none, and adds the files in one commit; returns its address.

    What the hub has received is not sent again: after an interruption, the same call goes on.

    Raises:
        UsageError: The repository is public and `public` is not given, or the token may not write to it.
        EnvironmentFailure: There is no token, or the hub cannot be reached or refuses the files.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()  # ours says what happens
    name = planned.repository
    if get_token() is None:
        raise EnvironmentFailure("no token for the Hugging Face hub; run 'hf auth login', or set HF_TOKEN")
    api = HfApi(library_name="seap-export")
    _asked(name, lambda: api.create_repo(name, private=not public, exist_ok=True))
    if not public and not _asked(name, lambda: api.model_info(name)).private:
        raise UsageError(f"{name} is a public repository; give --public to upload to it, or another name")
    operations = [CommitOperationAdd(path, file) for path, file in planned.files.items()]
    message = f"Upload {planned.variant} with seap-export"
    with progress.step(f"{planned.variant}: uploading to {name}"):
        _asked(name, lambda: api.create_commit(name, operations, commit_message=message))
    return f"{api.endpoint}/{name}"


def _asked(name: str, ask: Callable[[], Any]) -> Any:
    """Calls the hub, and turns its refusals into errors of one line."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return ask()
    except MemoryError:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise EnvironmentFailure(
                f"{name}: the hub does not accept the token; run 'hf auth login' again, or correct HF_TOKEN"
            ) from error
        if status in (403, 404):
            raise UsageError(
                f"{name}: your token may not write there, or there is no such owner ({_reason(error)}); check OWNER "
                "and the token"
            ) from error
        raise EnvironmentFailure(
            f"{name}: the hub refused the upload ({_reason(error)}); correct what it names, or try again later"
        ) from error
    except Exception as error:  # its errors share no useful base class across releases
        raise EnvironmentFailure(
            f"{name}: the hub cannot be reached, or the upload broke off ({_reason(error)}); run the same command "
            "again to continue"
        ) from error


def _reason(error: Exception) -> str:
    """The hub's error message, or else the exception's, as one line."""
    said = getattr(error, "server_message", None) or str(error).strip() or type(error).__name__
    return said.partition("\n")[0][:200]
