"""Code that travels in a folder and runs where somebody loads the model must be this package's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path

from converters.formats import FORMATS
from seap_export import __version__
from seap_export.common.checksums import LEFT_BY_OTHERS
from seap_export.common.json_file import read_json
from seap_export.errors import InputError
from seap_export.pruning.shrink.write import MODELING_FILES

#: Where the code is that a folder may have, by the file's name.
_PACKAGES: Mapping[str, str] = {
    **dict.fromkeys(MODELING_FILES, "seap_export.model.modeling"),
    **{name: row.package for row in FORMATS.values() for name in row.code},
}
#: What Python runs when it is imported or unpickled, and no export writes.
_FOREIGN = re.compile(r".*\.(py|py[cdow]|so|dll|dylib|pkl|pickle|pt|pth|ckpt)|pytorch_model.*\.bin")
#: The keys of configs by which loaders find code, and the values that lead to ours or to the library's own.
_KEYS: Mapping[str, re.Pattern[str]] = {
    "auto_map": re.compile(r"(configuration|modeling)_seap\.Seap\w+"),
    **{key: re.compile(re.escape(name)) for row in FORMATS.values() for name, key in row.code.items()},
    "attn_implementation": re.compile(r"[\w|]+"),
    "_attn_implementation": re.compile(r"[\w|]+"),
    "custom_pipelines": re.compile("(?!)"),
}


def code_damages(folder: Path) -> list[str]:
    """The code in a folder, or named by a config in it, that is not this release's: each in a line with the remedy.

    Nothing is run. Lists of hashes do not tell, since whoever changes the code can change them, too.
    """
    lines: list[str] = []
    for parent, inner, names in os.walk(folder):
        inner[:] = sorted({*inner} - LEFT_BY_OTHERS)
        for name in sorted(names):
            path = Path(parent, name)
            lines += _code(path)
            if name.endswith("config.json"):
                lines += _named(path)
    return lines


def _code(path: Path) -> Iterator[str]:
    if path.name in _PACKAGES:
        ours = (resources.files(_PACKAGES[path.name]) / path.name).read_bytes()
        if not path.is_file() or path.read_bytes() != ours:
            yield (
                f"{path} is not the code of seap-export {__version__}, and may do anything where the model is loaded; "
                "get the folder again, or, if another release wrote it, use that one"
            )
    elif _FOREIGN.fullmatch(path.name.lower()):
        yield f"{path} may run code where the model is loaded, and no export writes such a file; remove it"


def _named(path: Path) -> Iterator[str]:
    try:
        config = read_json(path)
    except InputError as error:
        yield str(error)
        return
    for key, pattern in _KEYS.items():
        value = config.get(key)
        values = [*value.values()] if isinstance(value, dict) else [] if value is None else [value]
        if not all(isinstance(one, str) and pattern.fullmatch(one) for one in values):
            yield f"{path}: {key} names code that is not seap-export's; get the folder again"
