"""Signed bundles: made by mf-export sign, checked wherever a key is given."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

import microforge
from microforge.bundle.files import load_bundle
from microforge.bundle.pack import pack_bundle
from microforge.bundle.signature import check_signature, read_private_key, read_public_key, sign
from microforge.errors import SignatureError
from microforge.io.console import exit_code
from microforge_export.cli import app as export_app
from microforge_runtimes.cli import app as generate_app
from microforge_runtimes.open_model import task_entries

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
MANIFEST = b'{"schema_version": 2}'


def private_pem(key: object) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Files of the private and the public key."""
    private, public = tmp_path / "key.pem", tmp_path / "public.pem"
    private.write_bytes(private_pem(KEY))
    public.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signature_is_deterministic_and_checked_with_the_public_key(keys: tuple[Path, Path]) -> None:
    private, public = keys
    signature = sign(MANIFEST, read_private_key(private))
    assert signature == sign(MANIFEST, KEY) and len(signature) == 89
    check_signature(MANIFEST, signature, read_public_key(public), "model.mfb")
    check_signature(MANIFEST, signature, read_public_key(private), "model.mfb")


@given(position=st.integers(0, len(MANIFEST) - 1), bit=st.integers(0, 7))
def test_any_changed_bit_of_the_manifest_is_found(position: int, bit: int) -> None:
    changed = bytearray(MANIFEST)
    changed[position] ^= 1 << bit
    with pytest.raises(SignatureError, match="was changed"):
        check_signature(bytes(changed), sign(MANIFEST, KEY), KEY.public_key(), "model.mfb")


@given(st.binary(max_size=400))
def test_a_malformed_signature_is_refused_in_one_line(signature: bytes) -> None:
    with pytest.raises(SignatureError) as refusal:
        check_signature(MANIFEST, signature, KEY.public_key(), "model.mfb")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no unencrypted private key"),
        (b"x" * 20_000, "too large"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no unencrypted private key"),
        (private_pem(generate_ec_key(SECP256R1())), "of another kind; needed: Ed25519"),
    ],
)
def test_keys_that_cannot_sign_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(SignatureError, match=message):
        read_private_key(path)


def test_a_missing_key_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pem", tmp_path):
        with pytest.raises(SignatureError, match="no regular file"):
            read_public_key(path)


def test_a_key_opens_signed_bundles_only(new_bundle_for_signing: Path, keys: tuple[Path, Path]) -> None:
    folder, (private, public) = new_bundle_for_signing, keys
    with pytest.raises(SignatureError, match="is not signed"):
        load_bundle(folder, KEY.public_key())
    assert exit_code(export_app, ["sign", str(folder), "--key", str(private)]) == 0
    assert exit_code(export_app, ["sign", str(folder), "--key", str(private)]) == 2
    assert load_bundle(folder, read_public_key(public)).id == load_bundle(folder).id
    archive = folder.with_name("model.mfb.zip")
    pack_bundle(folder, archive)
    assert load_bundle(archive, KEY.public_key()).id == load_bundle(folder).id
    with pytest.raises(SignatureError, match="another key"):
        load_bundle(archive, Ed25519PrivateKey.generate().public_key())


def test_generating_with_a_key_needs_its_signature(
    new_bundle_for_signing: Path, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, (private, public) = new_bundle_for_signing, keys
    out, words = (
        tmp_path / "image.png",
        [str(folder), "a red circle", "--size", "64", "--key", str(public), "--out"],
    )
    assert exit_code(generate_app, [*words, str(out)]) == 2 and not out.exists()
    assert "is not signed" in capsys.readouterr().err
    with pytest.raises(SignatureError, match="is not signed"):
        microforge.load(folder, key=public)
    assert exit_code(export_app, ["sign", str(folder), "--key", str(private)]) == 0
    assert exit_code(generate_app, [*words, str(out)]) == 0 and out.exists()
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    assert exit_code(generate_app, [*words, str(tmp_path / "other.png")]) == 2
    assert "the bundle was changed" in capsys.readouterr().err
    with pytest.raises(SignatureError, match="the bundle was changed"):
        microforge.load(folder, key=public)


def test_a_checkpoint_with_a_key_is_refused(editing_checkpoint: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(SignatureError, match="only bundles are signed"):
        microforge.load(editing_checkpoint, key=keys[1])
    with pytest.raises(SignatureError, match="only bundles are signed"):
        task_entries(editing_checkpoint, KEY.public_key())


@pytest.fixture
def new_bundle_for_signing(editing_bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model.mfb"
    shutil.copytree(editing_bundle, folder)
    return folder
