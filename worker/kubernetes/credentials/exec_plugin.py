"""Runs the exec plugin of a kubeconfig: a command that prints a token or a client certificate.

The protocol is `ExecCredential` of client.authentication.k8s.io, v1 and v1beta1. A worker has no terminal, so the
plugin is never interactive.
"""

import asyncio
import os
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from worker.kubernetes.credentials.access import CredentialsError
from worker.kubernetes.credentials.kubeconfig_types import Cluster, Exec, without_nulls

PLUGIN_SECONDS = 10.0
"""Maximum run time of a plugin. Requests wait for the plugin."""
OUTPUT_BYTES = 1024 * 1024
"""Maximum length of what a plugin prints. A credential has a few kilobytes."""
RENEW_SHARE = 0.8
"""Part of a credential's life after which the plugin runs again. The rest is left for tries that fail."""
API_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_CLUSTER_EXTENSION = "client.authentication.k8s.io/exec"


class Credential(msgspec.Struct, frozen=True, rename="camel"):
    """Status of an ExecCredential. Certificate and key are PEM."""

    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _Output(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: Credential | None = None


class ExecPlugin:
    """Keeps the credential of the last run until RENEW_SHARE of its life is over.

    A credential without an expiration is not kept: the caller decides how often the plugin runs.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked: tuple[Exec, Cluster] | None = None
        self._credential = Credential()
        self._renew_at = 0.0

    async def credential(self, plugin: Exec, cluster: Cluster, *, renew: bool) -> tuple[Credential, float | None]:
        """Return a credential, and the seconds until it must be renewed, or None if it has no expiration.

        Raises:
            CredentialsError: the plugin failed.
        """
        is_kept = self._asked == (plugin, cluster) and self._clock() < self._renew_at
        if renew or not is_kept:
            credential = await run(plugin, cluster)
            life = _seconds_left(credential)
            self._asked, self._credential = (plugin, cluster), credential
            self._renew_at = self._clock() + RENEW_SHARE * (life or 0.0)
        if self._credential.expiration_timestamp is None:
            return self._credential, None
        return self._credential, max(0.0, self._renew_at - self._clock())


async def run(plugin: Exec, cluster: Cluster, seconds: float = PLUGIN_SECONDS) -> Credential:
    """Run the plugin once.

    Raises:
        CredentialsError: the plugin failed, took more than `seconds`, or printed no credential.
    """
    try:
        output = await _execute(plugin, _environment(plugin, cluster), seconds)
    except TimeoutError as error:
        raise CredentialsError(f"the command {plugin.command!r} took more than {seconds:g} s.") from error
    except OSError as error:
        hint = f" {plugin.install_hint.strip()}" if plugin.install_hint.strip() else ""
        raise CredentialsError(f"the command {plugin.command!r} cannot be run: {error.strerror}.{hint}") from error
    return _read_credential(output, plugin)


async def _execute(plugin: Exec, environment: dict[str, str], seconds: float) -> bytes:
    process = await asyncio.create_subprocess_exec(
        plugin.command,
        *plugin.args,
        env=environment,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds):
            output, errors = await asyncio.gather(_read(process.stdout), _read(process.stderr))
            code = await process.wait()
    except BaseException:
        await _kill(process)
        raise
    if code:
        last_line = (errors.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise CredentialsError(f"the command {plugin.command!r} failed with code {code}: {last_line[:300]}")
    return output


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    """Return the first OUTPUT_BYTES of a stream, and skip the rest."""
    content = b""
    while stream is not None and (chunk := await stream.read(65536)):
        content += chunk[: OUTPUT_BYTES - len(content)]
    return content


async def _kill(process: Process) -> None:
    """End the plugin and all processes of its session, and close its pipes."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):  # a process that left the session can keep the pipes open
        async with asyncio.timeout(1.0):
            await process.communicate()


def _environment(plugin: Exec, cluster: Cluster) -> dict[str, str]:
    spec: dict[str, object] = {"interactive": False}
    if plugin.provide_cluster_info:
        spec["cluster"] = _cluster_info(cluster)
    info = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    own = {variable.name: variable.value for variable in plugin.env}
    return {**os.environ, **own, "KUBERNETES_EXEC_INFO": msgspec.json.encode(info).decode()}


def _cluster_info(cluster: Cluster) -> dict[str, object]:
    """Return the cluster as the protocol describes it, with the content of the authority's file."""
    authority = cluster.certificate_authority_data
    if not authority and cluster.certificate_authority:
        with suppress(OSError):
            authority = b64encode(Path(cluster.certificate_authority).read_bytes()).decode()
    fields: dict[str, object] = {
        "server": cluster.server,
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
        "certificate-authority-data": authority,
        "proxy-url": cluster.proxy_url,
        "config": next((e.extension for e in cluster.extensions if e.name == _CLUSTER_EXTENSION), None),
    }
    return {name: value for name, value in fields.items() if value}


def _read_credential(output: bytes, plugin: Exec) -> Credential:
    command = f"the command {plugin.command!r}"
    try:
        printed = msgspec.convert(without_nulls(msgspec.json.decode(output)), _Output)
    except (ValueError, RecursionError) as error:
        raise CredentialsError(f"{command} printed no ExecCredential: {error}") from error
    if (printed.kind, printed.api_version) != ("ExecCredential", plugin.api_version):
        given = f"{printed.api_version} {printed.kind}".strip() or "another object"
        raise CredentialsError(f"{command} printed {given}; expected {plugin.api_version} ExecCredential.")
    credential = printed.status or Credential()
    if bool(credential.client_certificate_data) != bool(credential.client_key_data):
        raise CredentialsError(f"{command} printed a certificate without its key, or a key without its certificate.")
    if not credential.token and not credential.client_certificate_data:
        raise CredentialsError(f"{command} printed neither a token nor a certificate.")
    return credential


def _seconds_left(credential: Credential) -> float | None:
    expires_at = credential.expiration_timestamp
    return None if expires_at is None else max(0.0, expires_at.timestamp() - time.time())
