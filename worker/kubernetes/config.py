"""Configuration of a client of Kubernetes: from kubeconfig files or, in a Pod, from its service account."""

import asyncio
import os
from pathlib import Path

import msgspec
from msgspec.structs import replace

from shared.errors import InvalidSettings
from shared.settings import Settings
from worker.kubernetes.credentials.access import Access, CredentialsError, Source
from worker.kubernetes.credentials.in_cluster import InClusterSource
from worker.kubernetes.credentials.kubeconfig import KubeconfigSource, normalize_server
from worker.kubernetes.credentials.kubeconfig_files import read_file
from worker.kubernetes.credentials.renewal import Credentials
from worker.kubernetes.credentials.tls import check_authority
from worker.kubernetes.proxies import proxy_for

SPARE_CONNECTIONS = 10
"""Connections beyond one for each job: for the lists, watches and deletes of no job."""
DEFAULT_PATH = Settings().kubeconfig_path
"""Default of KUBECONFIG_PATH. Only this path can be missing: no person has named it."""


class ClusterConfig(msgspec.Struct, frozen=True):
    """The API server of one cluster, and how to reach it. `host` is its URL without a trailing slash."""

    host: str
    credentials: Credentials
    max_connections: int
    proxy: str | None = None
    tls_server_name: str | None = None


async def configuration(settings: Settings) -> ClusterConfig:
    """Read the configuration, and apply the settings that override it.

    Raises:
        InvalidSettings: no usable configuration. The message names the setting, and what to do.
    """
    source = _source(settings.kubeconfig_path)

    async def read(renew: bool) -> Access:
        access = await source.read(renew=renew)
        return await asyncio.to_thread(_override, access, settings)

    try:
        access = await read(False)
        credentials = Credentials(read, access)
    except CredentialsError as error:
        raise InvalidSettings(f"KUBECONFIG_PATH: {_explain(error, settings, source)}") from error
    return ClusterConfig(
        host=access.server,
        credentials=credentials,
        max_connections=settings.worker_max_jobs + SPARE_CONNECTIONS,
        proxy=_proxy(access),
        tls_server_name=access.tls_server_name or None,
    )


def _explain(error: CredentialsError, settings: Settings, source: Source) -> str:
    if not isinstance(source, InClusterSource):
        return str(error)
    missing = f"{settings.kubeconfig_path} is missing; mount the file or set the variable."
    return f"{missing} Not in a cluster either: {error}"


def _source(path: str) -> Source:
    """Return the place that `path` names. A path that was set is never replaced by another cluster."""
    if path == DEFAULT_PATH and not os.access(Path(path).expanduser(), os.F_OK):
        return InClusterSource()
    return KubeconfigSource(path)


def _override(access: Access, settings: Settings) -> Access:
    """Return the access with what the settings replace."""
    return replace(
        access,
        server=_read_server(settings.k8s_api_server) if settings.k8s_api_server else access.server,
        authority=_read_authority(settings.k8s_ca_file) if settings.k8s_ca_file else access.authority,
        verify_tls=access.verify_tls and settings.k8s_verify_tls,
        tls_server_name=settings.k8s_tls_server_name or access.tls_server_name,
    )


def _read_server(url: str) -> str:
    try:
        return normalize_server(url)
    except CredentialsError as error:
        raise InvalidSettings(f"K8S_API_SERVER: {error}") from error


def _read_authority(file: str) -> bytes:
    try:
        content = read_file(Path(file)) or b""
        check_authority(content)
    except CredentialsError as error:
        raise InvalidSettings(f"K8S_CA_FILE: expected a PEM file of certificates; got {file!r}: {error}") from error
    return content


def _proxy(access: Access) -> str | None:
    try:
        return proxy_for(access.server, access.proxy_url, os.environ)
    except CredentialsError as error:
        setting = "KUBECONFIG_PATH: " if access.proxy_url else ""
        raise InvalidSettings(f"{setting}{error}") from error
