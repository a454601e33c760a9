"""The signature of a variant, which tells who made its files.

Source: https://github.com/sigstore/model-transparency; a signature is a Sigstore bundle with the hash of every file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seap_export.common.extras import install_remedy
from seap_export.errors import EnvironmentFailure, UsageError, refuse_missing
from seap_export.pipeline.folder.contents import Variant


def refuse_unusable_key(public_key: Path) -> None:
    """Tries a key before anything is hashed."""
    refuse_missing(public_key)
    try:
        _verification(public_key)
    except ImportError as error:
        raise EnvironmentFailure(f"checking a signature needs model_signing; {install_remedy('signing')}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:  # the last two: a key of another kind
        raise UsageError(
            f"{public_key}: not the public key of an elliptic curve; write it with 'openssl ec -in key.pem -pubout'"
        ) from error


def signatures(variant: Variant) -> list[Path]:
    """The signatures that lie in a variant's folder."""
    return sorted(variant.path.glob("*.sig"))


def signature_damages(variant: Variant, public_key: Path) -> list[str]:
    """Faults of a variant's signatures, in words; a missing signature is one."""
    files, damages = signatures(variant), []
    if not files:
        return [f"{variant.path}: there is no signature; sign the folder, or leave out --signed-by"]
    for path in files:
        try:
            _verification(public_key, path).verify(variant.path, path)
        except MemoryError:
            raise
        except Exception as error:  # whatever a damaged file makes its parsers raise
            why = str(error).strip().partition("\n")[0][:300] or type(error).__name__
            damages.append(f"{path}: the signature is wrong ({why}); get the folder or the key again")
    return damages


def _verification(public_key: Path, *unsigned: Path) -> Any:
    """A fresh configuration to verify one signature, since `model_signing` keeps state in it between folders."""
    from model_signing import hashing, verifying

    hashed = hashing.Config().set_ignored_paths(paths=unsigned)
    return verifying.Config().use_elliptic_key_verifier(public_key=public_key).set_hashing_config(hashed)
