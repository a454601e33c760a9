"""`push`: uploads variants to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seap_export.api.options import RunOptions
from seap_export.common.options import option, options, takes
from seap_export.common.values import FilePath


@dataclass(frozen=True)
class PushedVariant:
    """The repository and files of a variant that `push` uploaded, or in a dry run would upload.

    Attributes:
        repository: OWNER/NAME on the hub.
        files: The size of each file in bytes, by its path in the repository.
        address: The address of the repository; None: nothing was uploaded.
    """

    repository: str
    files: Mapping[str, int]
    address: str | None

    @property
    def bytes(self) -> int:
        """The total size of the files in bytes."""
        return sum(self.files.values())


@options
class PushOptions(RunOptions):
    """All options of `push`."""

    path: FilePath = option("The output folder of an export, or a variant's folder in it.", kw_only=False)
    repository: str = option(
        "OWNER/NAME on the hub; several variants go to OWNER/NAME-VARIANT.", kw_only=False, metavar="REPO"
    )
    public: bool = option(
        "Create a public repository, or upload to one.",
        default=False,
        unset="private",
        python="New repositories are public, and public ones are accepted; otherwise new ones are private, and public "
        "ones are refused. A repository that is private already stays private.",
    )
    dry_run: bool = option("Run the checks, show what would be uploaded, and upload nothing.", default=False)
    force: bool = option("Upload without the checks of `validate`, but for hashes and code.", default=False)


@takes(PushOptions)
def push(options: PushOptions) -> dict[str, PushedVariant]:
    """Uploads a variant, or all variants of an export, once they have passed the checks of `validate`.

    What the hub has received already is not sent again, so the same call continues after an interruption.

    Example:
        >>> from seap_export import push
        >>> planned = push("pruned", "me/maths", dry_run=True)
        >>> {name: variant.bytes for name, variant in planned.items()}

    Args:
        The fields of `PushOptions`.

    Returns:
        The repository of each variant, by the variant's name.

    Raises:
        TypeError: An argument has the wrong type.
        UsageError: There is no export or variant at the path, or you may not write to the repository.
        EnvironmentFailure: There is no token, the hub cannot be reached, or a runtime is missing.
        ArtifactError, ParityFailure: A check failed, or the manifest is damaged.
    """
    from seap_export.pipeline.push import gate, plan_uploads, upload

    said = options.progress
    planned = plan_uploads(options.path, options.repository)
    if not options.force:
        gate(options.path, said).refuse_failures()
    pushed = {}
    for each in planned:
        address = None if options.dry_run else upload(each, public=options.public, progress=said)
        pushed[each.variant] = PushedVariant(each.repository, each.sizes, address)
    return pushed
