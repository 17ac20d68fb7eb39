"""Configuration of the Kubernetes client: from a kubeconfig file or, in a Pod, from its service account."""

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
"""Maximum run time of a kubeconfig's exec plugin. Requests wait for the plugin."""
TOKEN_SECONDS = 60.0
"""Interval between two reads of the token: that of the library for in-cluster tokens. Plugins' tokens live minutes."""
SPARE_CONNECTIONS = 10
"""Connections beyond one for each job: for the lists, watches and deletes of no job."""


class TokenRefresher:
    """Reads the token of a kubeconfig again: an exec plugin renews it, its file changes, or the kubeconfig is replaced.

    The library calls the refresher before each request; the refresher reads at most once in TOKEN_SECONDS. If that
    fails, the old token stays. In a cluster, the library itself reads the token of the service account again.
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
        except Exception as error:  # noqa: BLE001 - whatever fails here, the old token may still be valid
            log.warning("kubeconfig token cannot be refreshed", kubeconfig=str(self._file), error=str(error))
        else:
            configuration.api_key.update(fresh.api_key)


async def configuration(settings: Settings) -> Configuration:
    """Load the configuration, and apply the settings that override it.

    Raises:
        InvalidSettings: no usable configuration. The message names the setting, and what to do.
    """
    loaded = Configuration()
    await _load(settings.kubeconfig_path, loaded)
    if settings.k8s_api_server:
        loaded.host = settings.k8s_api_server.rstrip("/")
    if settings.k8s_ca_file:
        _check_ca_file(settings.k8s_ca_file)
        loaded.ssl_ca_cert = settings.k8s_ca_file
    loaded.verify_ssl = loaded.verify_ssl and settings.k8s_verify_tls
    loaded.tls_server_name = settings.k8s_tls_server_name or loaded.tls_server_name
    loaded.connection_pool_maxsize = settings.worker_max_jobs + SPARE_CONNECTIONS
    return loaded


def _check_ca_file(file: str) -> None:
    try:
        ssl.create_default_context(cafile=file)
    except OSError as error:  # includes ssl.SSLError
        raise InvalidSettings(f"K8S_CA_FILE: expected a PEM file of certificates; got {file!r}: {error}") from error


async def _load(path: str, target: Configuration) -> None:
    try:
        await _read(Path(path).expanduser(), path, target)
    except InvalidSettings:
        raise
    except Exception as error:  # of the library, its YAML parser or the file system
        raise InvalidSettings(f"KUBECONFIG_PATH: {path} cannot be used: {type(error).__name__}: {error}") from error


async def _read(file: Path, path: str, target: Configuration) -> None:
    if file.is_dir():
        raise InvalidSettings(
            f"KUBECONFIG_PATH: expected a file; {path} is a directory. Docker creates a directory if the file to mount "
            "is missing on the host. Remove the directory and mount the real file."
        )
    if file.is_file():
        await load_kube_config(config_file=str(file), client_configuration=target, persist_config=False)
        target.refresh_api_key_hook = TokenRefresher(file)
        return
    try:
        load_incluster_config(client_configuration=target)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise InvalidSettings(
            f"KUBECONFIG_PATH: {path} is missing; mount the file or set the variable. Not in a cluster either: {error}"
        ) from error
