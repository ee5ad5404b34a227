"""Content Credentials: a C2PA manifest inside the image, signed with the caller's key. No torch.

The manifest (C2PA specification 2.x) says that a model generated the image, or edited which parent, and holds a hash
of the file: a changed pixel is noticed. Needs ``c2pa-python``, the reference library of the standard; nothing is sent
or fetched, so the signature carries no time stamp of an authority.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microforge.errors import DataError, OutputError, missing_extra
from microforge.io.file_kind import HEAD_BYTES, file_kind, with_article
from microforge.io.user_file import read_user_file
from microforge.version import __version__
from microforge_runtimes.marks.xmp import VOCABULARY, SourceType

#: No thumbnails (32 KB each, and pictures of the parent), and no network.
_SETTINGS: dict[str, dict[str, Any]] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
_MEDIA_TYPES = {
    "PNG image": "image/png",
    "JPEG image": "image/jpeg",
    "WebP image": "image/webp",
    "GIF image": "image/gif",
}
_AGENT = {"name": "microforge", "version": __version__}


@dataclass(frozen=True)
class Signer:
    """A certificate chain (PEM, the signer's own first), its private key (PEM), and the algorithm that fits them."""

    certificates: str
    key: str
    algorithm: str


@dataclass(frozen=True)
class ContentCredentials:
    """What a reader of the standard finds: its verdict ("Invalid", "Valid", "Trusted"), codes, and the manifest."""

    state: str
    codes: tuple[str, ...]
    manifest: dict[str, Any]


def read_signer(certificates: Path, key: Path) -> Signer:
    """The signer of two PEM files.

    Raises:
        DataError: when a file cannot be read, is no PEM of that kind, or the key is not the certificate's.
        MissingExtraError: without the extra ``c2pa``.
    """
    _library()
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    chain_pem, key_pem = (_read(path, what) for path, what in ((certificates, "--c2pa-certificate"), (key, "--c2pa-key")))  # fmt: skip
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
    except ValueError:
        raise DataError(f"--c2pa-certificate {certificates} holds no certificate in PEM form") from None
    try:
        private = serialization.load_pem_private_key(key_pem, None)
    except TypeError:
        raise DataError(f"--c2pa-key {key} is encrypted with a password; give a key that is not") from None
    except ValueError:
        raise DataError(f"--c2pa-key {key} holds no private key in PEM form") from None
    if _public(private.public_key()) != _public(chain[0].public_key()):
        raise DataError(
            f"--c2pa-key {key} is not the key of the first certificate in {certificates}; the signer's own comes first"
        )
    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Signer(chain_pem.decode("ascii", "replace"), text.decode("ascii"), _algorithm(key, private))


def sign_image(data: bytes, signer: Signer, source_type: SourceType, parent: bytes | None = None) -> bytes:
    """The image file ``data`` with a signed manifest.

    Args:
        source_type: what is said of the image's origin.
        parent: the image file that it was made from; its own manifest, if any, becomes part of the chain.

    Raises:
        OutputError: when the library refuses the certificate or the file.
        MissingExtraError: without the extra ``c2pa``.
    """
    c2pa = _library()
    media_type, signed = _media_type(data), io.BytesIO()
    definition = {"claim_generator_info": [_AGENT], "assertions": []}
    with _refusals(c2pa):
        builder = c2pa.Builder.from_json(json.dumps(definition), _context(c2pa, _SETTINGS))
        if parent is None:
            kind = c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA
            builder.set_intent(c2pa.C2paBuilderIntent.CREATE, kind)
        else:
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
            ingredient = {"title": "source image", "relationship": "parentOf"}
            builder.add_ingredient(ingredient, _media_type(parent), io.BytesIO(parent))
            builder.add_action(
                {
                    "action": "c2pa.edited",
                    "softwareAgent": _AGENT,
                    "digitalSourceType": VOCABULARY + source_type,
                }
            )
        info = c2pa.C2paSignerInfo(signer.algorithm, signer.certificates.encode(), signer.key.encode(), None)
        builder.sign(c2pa.Signer.from_info(info), media_type, io.BytesIO(data), signed)
    return signed.getvalue()


def read_provenance(data: bytes, trust_anchors: str | None = None) -> ContentCredentials | None:
    """What the standard's own reader says of the image file ``data``; None without a manifest.

    Args:
        trust_anchors: root certificates (PEM); with them the state is "Trusted" where the signer stands on one.

    Raises:
        DataError: when the manifest is there and cannot be read.
        MissingExtraError: without the extra ``c2pa``.
    """
    c2pa = _library()
    settings: dict[str, Any] = dict(_SETTINGS)
    if trust_anchors is not None:
        settings["trust"] = {"trust_anchors": trust_anchors}
        settings["verify"] = {**_SETTINGS["verify"], "verify_trust": True}
    try:
        reader = c2pa.Reader.try_create(_media_type(data), io.BytesIO(data), context=_context(c2pa, settings))
        if reader is None:
            return None
        values = json.loads(reader.json())
        state = str(reader.get_validation_state())
    except c2pa.C2paError as error:
        raise DataError(f"has a C2PA manifest that cannot be read ({' '.join(str(error).split())})") from None
    codes = tuple(str(item["code"]) for item in values.get("validation_status", ()))
    return ContentCredentials(state, codes, values["manifests"][values["active_manifest"]])


def can_be_parent(data: bytes) -> bool:
    """Whether the standard knows the format of the image file ``data``."""
    return file_kind(data[:HEAD_BYTES]) in _MEDIA_TYPES


def _media_type(data: bytes) -> str:
    kind = file_kind(data[:HEAD_BYTES])
    if kind not in _MEDIA_TYPES:
        raise DataError(f"is {with_article(kind)}; C2PA manifests are for {', '.join(_MEDIA_TYPES)}")
    return _MEDIA_TYPES[kind]


def _context(c2pa: Any, settings: dict[str, Any]) -> Any:
    return c2pa.Context(settings=c2pa.Settings.from_dict(settings))


@contextmanager
def _refusals(c2pa: Any) -> Iterator[None]:
    try:
        yield
    except c2pa.C2paError as error:
        raise OutputError(f"the image cannot be signed: {' '.join(str(error).split())}") from None


def _library() -> Any:
    try:
        import c2pa
    except ImportError:
        raise missing_extra("c2pa-python", "c2pa") from None
    return c2pa


def _read(path: Path, what: str) -> bytes:
    try:
        return read_user_file(path)
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read: {error.strerror or error}") from None


def _public(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    encoded: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _algorithm(path: Path, key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in curves:
        return curves[key.curve.name]
    raise DataError(
        f"--c2pa-key {path} is of a kind that C2PA does not allow; allowed: Ed25519, RSA, {', '.join(curves)}"
    )
