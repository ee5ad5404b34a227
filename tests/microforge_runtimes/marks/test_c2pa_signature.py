"""Signed images: the standard's own reader validates them, and reports a changed pixel."""

from __future__ import annotations

import datetime
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from microforge.errors import DataError, OutputError
from microforge_runtimes.marks.c2pa_signature import read_provenance, read_signer, sign_image
from microforge_runtimes.marks.image_encoding import Format, encode_image
from microforge_runtimes.marks.xmp import VOCABULARY, SourceType, read_marks
from tests.microforge.io.images import base_picture, encoded

pytest.importorskip("c2pa", reason="needs the extra c2pa")

PIXELS = np.asarray(base_picture())


@dataclass(frozen=True)
class Chain:
    """Files of a signer whose certificate was issued by a root of the test's own."""

    certificates: Path
    key: Path
    root: str


def _chain(folder: Path, kind: str = "ec") -> Chain:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    makers: dict[str, Any] = {
        "ec": lambda: ec.generate_private_key(ec.SECP256R1()), "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }  # fmt: skip
    root_key: Any = ec.generate_private_key(ec.SECP256R1())
    leaf_key: Any = makers[kind]()
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)

    def name(text: str) -> x509.Name:
        fields = ((NameOID.COMMON_NAME, text), (NameOID.ORGANIZATION_NAME, "MicroForge tests"))
        return x509.Name([x509.NameAttribute(field, value) for field, value in fields])

    def certificate(subject: str, key: Any, is_root: bool) -> x509.Certificate:
        usage = x509.KeyUsage(not is_root, False, False, False, False, is_root, is_root, False, False)
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("root"))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=30))
        builder = builder.add_extension(x509.BasicConstraints(is_root, None), True).add_extension(usage, True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        if not is_root:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(issuer, False).add_extension(purpose, False)
        return builder.sign(root_key, hashes.SHA256())

    root, leaf = certificate("root", root_key, True), certificate("leaf", leaf_key, False)
    pem = serialization.Encoding.PEM
    (folder / "chain.pem").write_bytes(leaf.public_bytes(pem) + root.public_bytes(pem))
    private = leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    return Chain(folder / "chain.pem", folder / "key.pem", root.public_bytes(pem).decode())


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return _chain(tmp_path_factory.mktemp("chain"))


def _changed_pixel(data: bytes, format: Format) -> bytes:
    """``data`` with one pixel of another colour and everything else, the manifest too, as it was."""
    if format == "PNG":  # the last pixel of the last row, stored again without compression
        import struct
        import zlib

        at = data.find(b"IDAT") - 4
        length = struct.unpack_from(">I", data, at)[0]
        rows = bytearray(zlib.decompress(data[at + 8 : at + 8 + length]))
        rows[-1] ^= 0xFF
        packed = zlib.compress(bytes(rows), 9)
        packed = packed if len(packed) <= length else zlib.compress(bytes(rows))
        chunk = struct.pack(">I", len(packed)) + b"IDAT" + packed
        return data[:at] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[at + 12 + length :]
    changed = bytearray(data)
    changed[-40] ^= 0x08
    return bytes(changed)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_signed_image_is_trusted_and_a_changed_pixel_is_reported(chain: Chain, format: Format) -> None:
    data = encode_image(PIXELS, format, "trainedAlgorithmicMedia")
    signed = sign_image(data, read_signer(chain.certificates, chain.key), "trainedAlgorithmicMedia")
    found = read_provenance(signed, chain.root)
    assert found is not None and found.state == "Trusted" and found.codes == ()
    actions = next(a for a in found.manifest["assertions"] if a["label"].startswith("c2pa.actions"))
    action = actions["data"]["actions"][0]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"] == VOCABULARY + "trainedAlgorithmicMedia"
    assert read_marks(signed) == read_marks(data), "the XMP mark is still there"
    with Image.open(io.BytesIO(signed)) as one, Image.open(io.BytesIO(data)) as other:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    without_root = read_provenance(signed)
    assert without_root is not None and without_root.state == "Valid"
    assert without_root.codes == ("signingCredential.untrusted",)
    if format == "WEBP":
        return  # its manifest stands behind the pixels; the other two show what is asked
    changed = _changed_pixel(signed, format)
    with Image.open(io.BytesIO(changed)) as one, Image.open(io.BytesIO(signed)) as other:
        assert (np.asarray(one) != np.asarray(other)).any(), "it still opens, and differs"
    broken = read_provenance(changed, chain.root)
    assert broken is not None and broken.state == "Invalid"
    assert "assertion.dataHash.mismatch" in broken.codes


def test_an_edit_names_its_parent_and_keeps_the_parents_manifest(chain: Chain) -> None:
    signer = read_signer(chain.certificates, chain.key)
    first = sign_image(
        encode_image(PIXELS, "PNG", "trainedAlgorithmicMedia"), signer, "trainedAlgorithmicMedia"
    )
    kind: SourceType = "compositeWithTrainedAlgorithmicMedia"
    for parent in (first, encoded(base_picture(), "JPEG"), encoded(base_picture(), "GIF")):
        signed = sign_image(encode_image(PIXELS[::-1], "JPEG", kind), signer, kind, parent)
        found = read_provenance(signed, chain.root)
        assert found is not None and found.state == "Trusted"
        assert [item["relationship"] for item in found.manifest["ingredients"]] == ["parentOf"]
        assert ("active_manifest" in found.manifest["ingredients"][0]) == (parent is first)
        actions = next(a for a in found.manifest["assertions"] if a["label"].startswith("c2pa.actions"))
        assert [action["action"] for action in actions["data"]["actions"]] == ["c2pa.opened", "c2pa.edited"]
        assert actions["data"]["actions"][1]["digitalSourceType"] == VOCABULARY + kind


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_other_kinds_of_keys_sign_too(tmp_path: Path, kind: str) -> None:
    chain = _chain(tmp_path, kind)
    data = encode_image(PIXELS, "PNG", "trainedAlgorithmicMedia")
    signed = sign_image(data, read_signer(chain.certificates, chain.key), "trainedAlgorithmicMedia")
    found = read_provenance(signed, chain.root)
    assert found is not None and found.state == "Trusted"


def test_an_image_without_a_manifest_has_no_provenance() -> None:
    assert read_provenance(encode_image(PIXELS, "PNG", "trainedAlgorithmicMedia")) is None


def test_wrong_keys_and_certificates_are_one_line(chain: Chain, tmp_path: Path) -> None:
    other = _chain(tmp_path)
    (tmp_path / "words.pem").write_text("words")
    for certificates, key, message in (
        (chain.certificates, tmp_path / "none.pem", "--c2pa-key .*none.pem cannot be read: No such file"),
        (tmp_path / "words.pem", chain.key, "holds no certificate in PEM form"),
        (chain.certificates, tmp_path / "words.pem", "holds no private key in PEM form"),
        (chain.certificates, other.key, "is not the key of the first certificate"),
    ):
        with pytest.raises(DataError, match=message):
            read_signer(certificates, key)
    (tmp_path / "root.pem").write_text(chain.root)
    signer = read_signer(chain.certificates, chain.key)
    with pytest.raises(OutputError, match="the image cannot be signed: "):
        sign_image(
            encode_image(PIXELS, "PNG", "trainedAlgorithmicMedia"),
            type(signer)(chain.root, signer.key, signer.algorithm), "trainedAlgorithmicMedia",
        )  # fmt: skip
