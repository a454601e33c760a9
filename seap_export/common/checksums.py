"""SHA256SUMS: a folder's own list of its files, in the form of `sha256sum -c`, so that a copy of it can be checked."""

from __future__ import annotations

import re
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from seap_export.common.hashing import sha256_files
from seap_export.errors import ArtifactError, InputError

SUMS = "SHA256SUMS"
#: Files that git, the client of the Hugging Face hub and file managers leave: no program reads a model from them,
#: and they are never uploaded.
LEFT_BY_OTHERS = frozenset({".git", ".gitattributes", ".cache", ".DS_Store", "Thumbs.db", "desktop.ini"})
_LINE = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")
_LINK = "is a link; replace it with what it points to (from the hub: 'hf download REPO --local-dir DIR')"
_MOST_BYTES = 16 * 2**20
#: Folders within folders; a deeper one belongs to no artifact.
_DEEPEST = 16


def checksums_text(digests: Mapping[str, str]) -> str:
    """The content of a list: a line for each file, by its path within the folder."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))


def shipped_bytes(folder: Path) -> int:
    """The size of a folder as it is reported: all files except lists of checksums and files of other programs."""
    return sum(path.stat().st_size for path in _contents(folder)[0] if path.is_file() and path.name != SUMS)


def write_checksums(folder: Path) -> None:
    """Writes the list of all files in a folder.

    Raises:
        InputError: A file has a name that a list cannot hold.
        OSError: It cannot be written, or a file cannot be read.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)
    names = [path.relative_to(folder).as_posix() for path in paths]
    for name in names:
        if not is_path_inside(name):
            raise InputError(f"'{name:.100}': a name that {SUMS} cannot hold; rename the file in the model's folder")
    text = checksums_text(dict(zip(names, sha256_files(paths), strict=True)))
    (folder / SUMS).write_text(text, "utf-8", newline="\n")


def read_checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file that a folder's list names, by its path within the folder.

    Raises:
        ArtifactError: There is no list, or it is damaged.
    """
    path = folder / SUMS
    try:
        if not stat.S_ISREG(path.stat().st_mode) or path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is not a file, or is far too large")
        lines = [_LINE.fullmatch(line) for line in path.read_text("utf-8").removesuffix("\n").split("\n")]
        digests = {match[2]: match[1] for match in lines if match is not None}
        if len(digests) < len(lines) or not all(map(is_path_inside, digests)):
            raise ValueError("a line is not a SHA-256 and the path of another file in the folder")
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path} is missing, so that the folder cannot be checked; copy the whole folder again, or make it again"
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: damaged ({error}); copy the folder again, or make it again") from error
    return digests


def listed_files(folder: Path) -> dict[str, Path]:
    """All files by path that a folder's list names, the list itself, and those that lists of folders in it name.

    Raises:
        ArtifactError: A list is missing or damaged.
    """
    names = {SUMS, *(listed := read_checksums(folder))}
    for inner in _with_lists(listed):
        names |= {f"{inner}/{name}" for name in read_checksums(folder / inner)}
    return {name: folder / name for name in names}


def checksum_damages(folder: Path, apart: Collection[str] = (), *, follow_links: bool = False) -> list[str]:
    """How a folder differs from its list, each in a line with the remedy; a missing list is one, too.

    A folder in it with a list that this one names is compared with that one, in which a list is a file like any other.
    No folder is entered through a link.

    Args:
        apart: Names of files and folders in it that the list need not name; such a folder has a list of its own.
        follow_links: Whether a link to a file with the right content passes, as in the cache of the hub's client.
    """
    try:
        listed = read_checksums(folder)
    except ArtifactError as error:
        return [str(error)]
    paths, folders = _contents(folder)
    expected = [(folder / name, digest) for name, digest in listed.items()]
    known, unread = {folder / name for name in (SUMS, *listed, *apart)}, dict[Path, str]()
    for inner in sorted(folders & {folder / name for name in (*_with_lists(listed), *apart)}):
        try:
            expected += ((inner / name, digest) for name, digest in read_checksums(inner).items())
        except ArtifactError as error:
            unread[inner] = str(error)
        known.add(inner / SUMS)
    known.update(path for path, _ in expected)
    links = {path: None for path in paths if path.is_symlink() and (not follow_links or path.is_dir())}
    files = [path for path in paths if path in known and path not in links and path.is_file()]
    digests = dict(zip(files, sha256_files(files), strict=True))
    lines = [
        *(f"{path} {_LINK}" for path in links),
        *(
            f"{path} is missing; copy it again"
            for path, _ in expected
            if path not in digests and path not in links and path.parent not in unread
        ),
        *(
            f"{path} differs from its SHA-256 in {SUMS}; copy it again, or make the folder again"
            for path, digest in expected
            if digests.get(path, digest) != digest
        ),
        *(
            _unlisted(path)
            for path in paths
            if path not in known and path not in links and unread.keys().isdisjoint(path.parents)
        ),
        *unread.values(),
    ]
    return list(dict.fromkeys(lines))


def refuse_changed(folder: Path) -> bool:
    """Compares a folder with its list before it is opened; returns False if it has none.

    Raises:
        ArtifactError: A file is missing, was changed or is not in the list.
    """
    if not (folder / SUMS).exists():
        return False
    refuse_damages(checksum_damages(folder, follow_links=True))
    return True


def refuse_damages(lines: Sequence[str]) -> None:
    """Raises `ArtifactError` with the first line, if there is any."""
    if lines:
        raise ArtifactError(lines[0] + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""))


def is_path_inside(name: str) -> bool:
    """Whether a path leads nowhere else, on any system."""
    parts = name.split("/")
    return all(part not in ("", ".", "..") and part.isprintable() and not {"\\", ":"} & {*part} for part in parts)


def _with_lists(listed: Iterable[str]) -> list[str]:
    """The folders whose own lists a list names."""
    return [name.removesuffix(f"/{SUMS}") for name in listed if name.endswith(f"/{SUMS}")]


def _contents(folder: Path) -> tuple[list[Path], set[Path]]:
    """The files in a folder, links and too deep folders included, and the folders that no link leads to."""
    paths, folders = list[Path](), [folder] if folder.is_dir() else []
    for parent in folders:
        for path in sorted(parent.iterdir()):
            if path.name not in LEFT_BY_OTHERS:
                is_entered = (
                    path.is_dir() and not path.is_symlink() and len(path.parts) - len(folder.parts) <= _DEEPEST
                )
                (folders if is_entered else paths).append(path)
    return paths, {*folders}


def _unlisted(path: Path) -> str:
    if path.parent.name == "__pycache__":
        return f"{path.parent} is not in {SUMS}; remove it: Python made it when it ran the code in the folder"
    return f"{path} is not in {SUMS}; remove it"
