"""Access to the cluster of a kubeconfig's current context, by the rules of kubectl.

What kubectl accepts is either done here or refused by name. A field that is silently ignored would change who acts, or
which server is trusted.
"""

import asyncio
import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import SplitResult, quote, urlsplit

from msgspec.structs import replace

from worker.kubernetes.credentials.access import Access, CredentialsError
from worker.kubernetes.credentials.exec_plugin import API_VERSIONS, Credential, ExecPlugin
from worker.kubernetes.credentials.kubeconfig_files import KubeconfigFiles, Merged, read_file
from worker.kubernetes.credentials.kubeconfig_types import Cluster, Exec, User

T = TypeVar("T")

_INTERACTIVE_MODES = frozenset({"", "Never", "IfAvailable"})
_HEADER_KEY = "!#$&'*+-.^_`|~"
"""Characters beside letters and digits that a header's name can have, without `%`, which escapes all others."""


class KubeconfigSource:
    """Reads access from kubeconfig files. `path` is one file, or several separated by `:`."""

    def __init__(self, path: str, plugin: ExecPlugin | None = None) -> None:
        self._files = KubeconfigFiles(path)
        self._plugin = plugin or ExecPlugin()

    async def read(self, *, renew: bool) -> Access:
        """Read all files, and run the exec plugin if its credential is due.

        Raises:
            CredentialsError: the kubeconfig, or a file or command that it names, cannot be used.
        """
        cluster, user, access = await asyncio.to_thread(self._read_files)
        if user.exec is None or access.certificate or _has_header(access, "Authorization"):  # as kubectl
            return access
        credential, valid_seconds = await self._plugin.credential(user.exec, cluster, renew=renew)
        return replace(_with_credential(access, credential), valid_seconds=valid_seconds)

    def _read_files(self) -> tuple[Cluster, User, Access]:
        merged = self._files.read()
        cluster, user = _select(merged)
        try:
            return cluster, user, _access(cluster, user)
        except CredentialsError as error:
            raise CredentialsError(f"{merged.path}: {error}") from error


def _select(merged: Merged) -> tuple[Cluster, User]:
    """Return the cluster and the user of the current context."""
    name = merged.current_context
    if not merged.contexts:
        raise CredentialsError(f"{merged.path} is empty: it has no contexts. Mount a complete kubeconfig.")
    if not name:
        known = ", ".join(merged.contexts)
        raise CredentialsError(f"{merged.path} has no current-context. Set it to one of its contexts: {known}.")
    context = _find(merged.contexts, name, f"{merged.path}: the current-context", "contexts")
    where = f"{merged.path}: the context {name!r} names the"
    cluster = _find(merged.clusters, context.cluster, f"{where} cluster", "clusters")
    user = _find(merged.users, context.user, f"{where} user", "users") if context.user else User()
    return cluster, user


def _find(entries: Mapping[str, T], name: str, where: str, kind: str) -> T:
    if name in entries:
        return entries[name]
    raise CredentialsError(f"{where} {name!r}, which is not among its {kind}: {', '.join(entries) or 'none'}.")


def _access(cluster: Cluster, user: User) -> Access:
    _refuse_unsupported(cluster, user)
    certificate = _content("client-certificate", user.client_certificate_data, user.client_certificate)
    access = Access(
        server=_server(cluster, has_tls=bool(certificate)),
        proxy_url=cluster.proxy_url,
        tls_server_name=cluster.tls_server_name,
        verify_tls=not cluster.insecure_skip_tls_verify,
        headers=(*_authorization(user), *_impersonation(user)),
        authority=_content("certificate-authority", cluster.certificate_authority_data, cluster.certificate_authority),
        certificate=certificate,
        key=_content("client-key", user.client_key_data, user.client_key) if certificate else b"",
    )
    if access.certificate and not access.key:
        raise CredentialsError("the user has a client-certificate without a client-key. Add client-key-data.")
    has_credentials = access.certificate or user.exec or _has_header(access, "Authorization")
    if access.server.startswith("https:") and not has_credentials:
        raise CredentialsError("the user has no credentials: no token, no client certificate, no exec plugin.")
    return access


def _refuse_unsupported(cluster: Cluster, user: User) -> None:
    if user.auth_provider is not None:
        name = user.auth_provider.name
        raise CredentialsError(f"auth-provider {name!r} is not supported. Use its exec plugin, or a token.")
    if cluster.insecure_skip_tls_verify and (cluster.certificate_authority or cluster.certificate_authority_data):
        raise CredentialsError("insecure-skip-tls-verify and a certificate-authority exclude each other. Remove one.")
    if (user.token or user.token_file) and (user.username or user.password):
        raise CredentialsError("the user has a token and a username. Remove one of them.")
    if user.exec is not None:
        _check_plugin(user.exec)


def _check_plugin(plugin: Exec) -> None:
    if not plugin.command:
        raise CredentialsError("exec has no command. Add the path of the plugin.")
    if plugin.api_version not in API_VERSIONS:
        raise CredentialsError(f"exec: expected apiVersion {' or '.join(API_VERSIONS)}; got {plugin.api_version!r}.")
    if plugin.interactive_mode not in _INTERACTIVE_MODES:
        mode = plugin.interactive_mode
        raise CredentialsError(f"exec: interactiveMode {mode!r} is not supported, a worker has no terminal. Use Never.")


def _server(cluster: Cluster, *, has_tls: bool) -> str:
    """Return the server's URL. As in kubectl, the scheme can be in capitals, or missing if TLS is configured."""
    has_tls = has_tls or cluster.insecure_skip_tls_verify
    has_tls = has_tls or bool(cluster.certificate_authority or cluster.certificate_authority_data)
    url = f"https://{cluster.server}" if has_tls and "://" not in cluster.server else cluster.server
    return normalize_server(url)


def normalize_server(url: str) -> str:
    """Return the URL of an API server with a scheme in small letters and without a trailing slash.

    Raises:
        CredentialsError: no client can use the URL.
    """
    parts = _split_url(url)
    if parts is None:
        raise CredentialsError(f"server: expected a URL, https://host:port; got {url!r}.")
    if parts.username is not None or parts.query or parts.fragment:
        raise CredentialsError("server: expected a URL without user, query and fragment. Put credentials in the user.")
    return parts.geturl().rstrip("/")


def _split_url(url: str) -> SplitResult | None:
    """Return the parts of a URL of HTTP, or None if it is none."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_usable and not any(character.isspace() for character in url) else None


def _content(field: str, data: str, path: str) -> bytes:
    """Return the content of a `-data` field in base64 or, if that is empty, of the file. Without both: empty."""
    if data:
        try:
            return b64decode("".join(data.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise CredentialsError(f"{field}-data: expected base64: {error}.") from error
    if not path:
        return b""
    content = read_file(Path(path))
    if content is None:
        raise CredentialsError(f"{field}: {path} is missing; mount the file, or use {field}-data.")
    if not content:
        raise CredentialsError(f"{field}: {path} is empty.")
    return content


def _authorization(user: User) -> Iterator[tuple[str, str]]:
    if user.token or user.token_file:
        yield "Authorization", f"Bearer {_header_value('token', _token(user))}"
    elif user.username or user.password:
        pair = f"{user.username}:{user.password}".encode()
        yield "Authorization", f"Basic {b64encode(pair).decode()}"


def _token(user: User) -> str:
    """Return the token. As in kubectl, a readable tokenFile comes before a token."""
    if not user.token_file:
        return user.token
    try:
        return read_token(Path(user.token_file))
    except CredentialsError:
        if user.token:
            return user.token
        raise


def read_token(file: Path) -> str:
    """Return the token in a file, without the newline that most editors add.

    Raises:
        CredentialsError: the file is missing, or contains no token.
    """
    content = read_file(file)
    if content is None:
        raise CredentialsError(f"tokenFile: {file} is missing; mount the file.")
    token = content.decode(errors="replace").strip()
    if not token:
        raise CredentialsError(f"tokenFile: {file} is empty.")
    return _header_value(f"tokenFile {file}", token)


def _impersonation(user: User) -> Iterator[tuple[str, str]]:
    """Yield the headers of `as`, in the form of client-go. Without them the worker would act with its full rights."""
    others = {
        "as-uid": user.impersonate_uid,
        "as-groups": user.impersonate_groups,
        "as-user-extra": user.impersonate_extra,
    }
    if not user.impersonate:
        if given := next((field for field, value in others.items() if value), None):
            raise CredentialsError(f"{given} needs `as`. Add the user to act as.")
        return
    yield "Impersonate-User", _header_value("as", user.impersonate)
    if user.impersonate_uid:
        yield "Impersonate-Uid", _header_value("as-uid", user.impersonate_uid)
    for group in user.impersonate_groups:
        yield "Impersonate-Group", _header_value("as-groups", group)
    for key, values in user.impersonate_extra.items():
        for value in values:
            yield f"Impersonate-Extra-{quote(key, safe=_HEADER_KEY)}", _header_value("as-user-extra", value)


def _header_value(field: str, value: str) -> str:
    value = value.strip()
    if not value.isprintable():
        raise CredentialsError(f"{field}: expected text without line breaks and control characters.")
    return value


def _with_credential(access: Access, credential: Credential) -> Access:
    """Add a plugin's credential. Certificate and token can both be there."""
    if credential.token:
        token = _header_value("the plugin's token", credential.token)
        access = replace(access, headers=(("Authorization", f"Bearer {token}"), *access.headers))
    if credential.client_certificate_data:
        certificate, key = credential.client_certificate_data.encode(), credential.client_key_data.encode()
        access = replace(access, certificate=certificate, key=key)
    return access


def _has_header(access: Access, name: str) -> bool:
    return any(header == name for header, _ in access.headers)
