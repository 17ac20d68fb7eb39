"""TLS contexts from certificates in memory. No private key is written to a disk."""

import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from worker.kubernetes.credentials.access import Access, CredentialsError

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def tls_context(access: Access) -> ssl.SSLContext:
    """Return a context that trusts and proves what `access` contains, by the rules of Go's clients.

    So the authority can be an intermediate one, and a certificate can lack extensions that Python 3.13 requires.

    Raises:
        CredentialsError: a certificate or its key cannot be used.
    """
    context = _trusting(access.authority) if access.authority else ssl.create_default_context()
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not access.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if access.certificate:
        _load_client_certificate(context, access)
    return context


def check_authority(content: bytes) -> None:
    """Check that a file contains certificates of authorities.

    Raises:
        CredentialsError: the file contains no certificate, or a damaged one.
    """
    _trusting(content)


def _trusting(content: bytes) -> ssl.SSLContext:
    """Return a context that trusts the certificates of a PEM file. Text between them can be in any encoding."""
    certificates = _CERTIFICATE.findall(content)
    if not certificates:
        raise CredentialsError("the certificate authority is not in PEM format (-----BEGIN CERTIFICATE-----).")
    try:
        return ssl.create_default_context(cadata=b"\n".join(certificates).decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise CredentialsError(f"the certificate authority is damaged: {error}.") from error


def _load_client_certificate(context: ssl.SSLContext, access: Access) -> None:
    try:
        with _path_of(access.certificate) as certificate, _path_of(access.key) as key:
            context.load_cert_chain(certificate, key, password=_refuse_password)
    except (ssl.SSLError, ValueError, OSError) as error:
        raise CredentialsError(f"the client certificate and its key cannot be used: {_reason(error)}") from error


def _refuse_password() -> str:
    """Keep OpenSSL from asking on a terminal."""
    raise ValueError("the key is encrypted; write it without a password")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return "the key belongs to another certificate"
    return str(error) or type(error).__name__


@contextmanager
def _path_of(content: bytes) -> Iterator[str]:
    """Yield a path at which `content` can be read once. OpenSSL reads client certificates from files only."""
    with _unnamed_file() as file:
        file.write(content)
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"


def _unnamed_file() -> BinaryIO:
    """Open a file in memory. macOS has none, so there the file is deleted before the key is written."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("pem"), "w+b")
    return tempfile.TemporaryFile()
