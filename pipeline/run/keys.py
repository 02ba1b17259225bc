"""Ed25519 keys in files (PEM): signatures in and out. Needs `cryptography`, the extra `sign`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError


def make(file: Path) -> Path:
    """Write a new private key, for its owner's eyes only; the public one lies beside it, as .pub.

    Raises
    ------
    PipelineError
        One of the files is there already, or cannot be written.
    """
    serialization, ed25519 = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    beside = Path(f"{file}.pub")
    if os.path.lexists(beside):
        raise PipelineError(f"{beside} is there already")
    _write(file, private, 0o600)
    _write(beside, public, 0o644)
    return beside


def signer(file: Path) -> Callable[[bytes], bytes]:
    """Content -> its signature; PipelineError if the file holds no private Ed25519 key."""
    serialization, ed25519 = _cryptography()
    pem = _read(file)
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise PipelineError(f"{file}: no private Ed25519 key without a password")
    return key.sign  # type: ignore[no-any-return]


def verifier(file: Path) -> Callable[[bytes, bytes], bool]:
    """(content, signature) -> whether it fits; PipelineError if the file holds no public key."""
    serialization, ed25519 = _cryptography()
    from cryptography.exceptions import InvalidSignature

    pem = _read(file)
    try:
        key = serialization.load_pem_public_key(pem)
    except ValueError:
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise PipelineError(f"{file}: no public Ed25519 key")

    def fits(content: bytes, signature: bytes) -> bool:
        try:
            key.verify(signature, content)
        except InvalidSignature:
            return False
        return True

    return fits


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise PipelineError("signatures need cryptography: install tidemark[sign]") from None
    return serialization, ed25519


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise PipelineError(f"{file}: {exc.strerror}") from None


def _write(file: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
    except OSError as exc:
        raise PipelineError(f"{file}: {exc.strerror}") from None
