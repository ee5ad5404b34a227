"""Detached Ed25519 signatures of a bundle (RFC 8032). No torch.

The signature covers the bytes of ``manifest.json``; the manifest holds the SHA-256 of every other file, so one
signature vouches for the whole bundle. It lies beside the manifest as ``manifest.json.sig``: the 64 bytes in base64 and
a line end. Keys are PEM files, as ``openssl genpkey -algorithm ed25519`` writes them.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from microforge.bundle.manifest import MANIFEST
from microforge.errors import SignatureError, missing_extra

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE = f"{MANIFEST}.sig"
#: A signature file above this many bytes is refused unread.
MAX_BYTES = 256
_LENGTH = 64
_MAX_KEY_BYTES = 16_384


def sign(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """Content of the signature file for the bytes of a manifest."""
    return base64.b64encode(key.sign(manifest)) + b"\n"


def check_signature(manifest: bytes, signature: bytes, key: Ed25519PublicKey, where: str) -> None:
    """Check that the owner of ``key`` signed exactly these bytes.

    Args:
        manifest: bytes of ``manifest.json``.
        signature: bytes of ``manifest.json.sig``.
        key: public key of who is trusted.
        where: name of the bundle in messages.

    Raises:
        SignatureError: when the signature is malformed or of another key or manifest.
    """
    from cryptography.exceptions import InvalidSignature

    try:
        raw = base64.b64decode(signature.strip(), validate=True) if len(signature) <= MAX_BYTES else b""
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _LENGTH:
        raise SignatureError(
            f"{where}: {SIGNATURE} is not an Ed25519 signature in base64; sign the bundle again"
        )
    try:
        key.verify(raw, manifest)
    except InvalidSignature:
        raise SignatureError(
            f"{where}: {SIGNATURE} does not fit {MANIFEST} and this key; the bundle was changed, or another key signed it"
        ) from None


def read_private_key(path: str | Path) -> Ed25519PrivateKey:
    """The private key of an unencrypted PEM file.

    Raises:
        SignatureError: when it cannot be read or holds no Ed25519 private key.
        MissingExtraError: when ``cryptography`` is not installed.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    data = _key_bytes(path)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise SignatureError(
            f"{path} holds no unencrypted private key in PEM form: {_first_line(error)}"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(
            f"{path} holds a key of another kind; needed: Ed25519 (openssl genpkey -algorithm ed25519)"
        )
    return key


def read_public_key(path: str | Path) -> Ed25519PublicKey:
    """The public key of a PEM file; a private key's file gives its public half.

    Raises:
        SignatureError: when it cannot be read or holds no Ed25519 key.
        MissingExtraError: when ``cryptography`` is not installed.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    data = _key_bytes(path)
    if b"PRIVATE KEY" in data:
        return read_private_key(path).public_key()
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, TypeError) as error:
        raise SignatureError(f"{path} holds no public key in PEM form: {_first_line(error)}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise SignatureError(f"{path} holds a key of another kind; needed: Ed25519 (openssl pkey -pubout)")
    return key


def read_key(path: str | Path | None) -> Ed25519PublicKey | None:
    """As ``read_public_key``; None, for bundles of anybody, stays None."""
    return None if path is None else read_public_key(path)


def _require_cryptography() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise missing_extra("cryptography", "sign")


def _key_bytes(path: str | Path) -> bytes:
    path = Path(path)
    try:
        if not path.is_file():
            raise SignatureError(f"{path} is no regular file; needed: a key in PEM form")
        if path.stat().st_size > _MAX_KEY_BYTES:
            raise SignatureError(f"{path} is too large for a key; needed: a key in PEM form")
        return path.read_bytes()
    except OSError as error:
        raise SignatureError(f"{path} cannot be read: {error.strerror or error}") from None


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
