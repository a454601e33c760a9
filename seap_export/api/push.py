"""`push`: uploads variants to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seap_export.api.arguments import FilePath, checked
from seap_export.api.progress import ProgressArgument


@dataclass(frozen=True)
class PushedVariant:
    """What `push` uploaded, or in a dry run would upload.

    Attributes:
        repository: OWNER/NAME on the hub.
        files: The bytes of each file, by its path in the repository.
        address: Its address; None: nothing was uploaded.
    """

    repository: str
    files: Mapping[str, int]
    address: str | None

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(self.files.values())


def push(
    path: FilePath,
    repository: str,
    *,
    public: bool = False,
    dry_run: bool = False,
    force: bool = False,
    progress: ProgressArgument = False,
) -> dict[str, PushedVariant]:
    """Uploads a variant, or all variants of an export, once they have passed the checks of `validate`.

    What the hub has received already is not sent again, so the same call continues after an interruption.

    Example:
        >>> from seap_export import push
        >>> planned = push("pruned", "me/maths", dry_run=True)
        >>> {name: variant.bytes for name, variant in planned.items()}

    Args:
        path: The output folder of an export, or a variant's folder in it.
        repository: OWNER/NAME on the hub; several variants go to OWNER/NAME-VARIANT.
        public: New repositories are public, and public ones are accepted; otherwise new ones are private, and public
            ones are refused. A repository that is private already stays private.
        dry_run: Check, and upload nothing.
        force: Upload without the checks, but for hashes and code.
        progress: Print on stderr what happens, as the command does. Otherwise warnings are those of `warnings`.

    Returns:
        The repository of each variant, by the variant's name.

    Raises:
        TypeError: An argument has the wrong type.
        UsageError: There is no export or variant at the path, or you may not write to the repository.
        EnvironmentFailure: There is no token, the hub cannot be reached, or a runtime is missing.
        ArtifactError, ParityFailure: A check failed, or the manifest is damaged.
    """
    options = checked(push, locals())

    from seap_export.pipeline.push import gate, plan_uploads, upload

    said = options["progress"]
    planned = plan_uploads(options["path"], options["repository"])
    if not force:
        gate(options["path"], said).refuse_failures()
    pushed = {}
    for each in planned:
        address = None if dry_run else upload(each, public=public, progress=said)
        pushed[each.variant] = PushedVariant(each.repository, each.sizes, address)
    return pushed
