"""Access to one cluster: the server's address, and the facts that both sides of a connection prove themselves with."""

from typing import Protocol

import msgspec


class CredentialsError(Exception):
    """A kubeconfig, a certificate or a token cannot be used. The message is one line: what, where, and what to do."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """All that a client needs to reach one cluster. Certificates and keys are the contents of PEM files.

    `server` is a URL without a trailing slash. An empty `authority` stands for the authorities of the system.
    `valid_seconds` is the time after which the credentials must be read again, or None if that is not known.
    """

    server: str
    proxy_url: str = ""
    tls_server_name: str = ""
    verify_tls: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    authority: bytes = b""
    certificate: bytes = b""
    key: bytes = b""
    valid_seconds: float | None = None


class Source(Protocol):
    """Place that access is read from: a kubeconfig, or the files of a Pod's service account."""

    async def read(self, *, renew: bool) -> Access:
        """Read all files again. With `renew`, run an exec plugin even if its last credential is still valid.

        Raises:
            CredentialsError: the access cannot be used.
        """
