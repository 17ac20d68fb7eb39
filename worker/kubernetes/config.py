"""How the worker finds its cluster: a kubeconfig file or, in a cluster, the Pod's own service account."""

import asyncio
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from shared.errors import InvalidSettings
from shared.settings import Settings
from worker.kubernetes.lazy_import import ConfigException, Configuration, load_incluster_config, load_kube_config

log = structlog.get_logger()

PLUGIN_SECONDS = 10.0
"""What an exec plugin may take, while a request waits for it."""
TOKEN_SECONDS = 60.0
"""As often as the library looks at an in-cluster token; exec plugins' tokens live for minutes."""
SPARE_CONNECTIONS = 10
"""Beyond one a job: lists and deletes that are not of a job."""


class TokenRefresher:
    """Follows a kubeconfig's token: one that an exec plugin renews, that stands in a file, or that somebody replaced.

    The library calls it before each request; it looks no more often than once in TOKEN_SECONDS. Trouble in looking
    leaves the token as it is. (An in-cluster token is followed by the library itself.)
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._due = clock() + TOKEN_SECONDS

    async def __call__(self, configuration: Configuration) -> None:
        if self._clock() < self._due:
            return
        self._due = self._clock() + TOKEN_SECONDS
        fresh = Configuration()
        try:
            async with asyncio.timeout(PLUGIN_SECONDS):
                await load_kube_config(config_file=str(self._file), client_configuration=fresh, persist_config=False)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the token in hand may still be good
            log.warning("cannot look for a newer token", kubeconfig=str(self._file), error=str(error))
        else:
            configuration.api_key.update(fresh.api_key)


async def configuration(settings: Settings) -> Configuration:
    """Raises InvalidSettings: there is no usable configuration; it names the setting and what to do."""
    found = Configuration()
    await _load(settings.kubeconfig_path, found)
    if settings.k8s_api_server:
        found.host = settings.k8s_api_server.rstrip("/")
    if settings.k8s_ca_file:
        _must_hold_certificates(settings.k8s_ca_file)
        found.ssl_ca_cert = settings.k8s_ca_file
    found.verify_ssl = found.verify_ssl and settings.k8s_verify_tls
    found.tls_server_name = settings.k8s_tls_server_name or found.tls_server_name
    found.connection_pool_maxsize = settings.worker_max_jobs + SPARE_CONNECTIONS
    return found


def _must_hold_certificates(file: str) -> None:
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        raise InvalidSettings(f"K8S_CA_FILE: expected a PEM file of certificates; got {file!r}: {error}") from error


async def _load(path: str, into: Configuration) -> None:
    try:
        await _read(Path(path).expanduser(), path, into)
    except InvalidSettings:
        raise
    except Exception as error:  # whatever the library, its YAML parser or the file system finds wrong with it
        raise InvalidSettings(f"KUBECONFIG_PATH: {path} cannot be used: {type(error).__name__}: {error}") from error


async def _read(file: Path, path: str, into: Configuration) -> None:
    if file.is_dir():
        raise InvalidSettings(
            f"KUBECONFIG_PATH: expected a file, {path} is a directory. Docker makes one when the file it is told to "
            "mount is missing on the host: remove the directory and mount the real file."
        )
    if file.is_file():
        await load_kube_config(config_file=str(file), client_configuration=into, persist_config=False)
        into.refresh_api_key_hook = TokenRefresher(file)
        return
    try:
        load_incluster_config(client_configuration=into)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise InvalidSettings(
            f"KUBECONFIG_PATH: {path} is missing, and this is no Pod in a cluster: {error}"
        ) from error
