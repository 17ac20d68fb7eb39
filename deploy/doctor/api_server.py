"""The cluster's API server: whether it answers us, and what it allows us."""

import asyncio
import ssl
from ipaddress import ip_address
from urllib.parse import urlsplit

import aiohttp

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, broken, ok, warning
from deploy.doctor.speed import fastest
from shared.errors import InvalidSettings
from worker.kubernetes.errors import NO_ANSWER, KubernetesError

SLOW_SECONDS = 0.5
"""A call, of which a create takes two in a row; a second is what a sandbox should need in all."""
HOST = "host.docker.internal"
"""The machine, as a container of Docker Desktop, or one that was given this name, knows it."""
NEEDED = {
    "pods": ("create", "delete", "get", "list", "watch"),
    "services": ("create", "delete", "get", "list", "watch"),
}
"""What the worker asks for in its namespace. A test compares it, and the next, with what a worker does."""
HELPFUL = {"events": ("list", "watch")}
"""From which it hears why a sandbox is stuck: without it, sandboxes are made all the same."""

_UNAUTHORIZED, _FORBIDDEN = 401, 403
_WRONG_NAME = frozenset({62, 64})
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH, and that of an IP address."""
_WRONG_TIME = frozenset({9, 10})
"""Not valid yet, and not valid any more."""


async def reachable(patient: Context) -> Finding:
    try:
        server = patient.cluster.host
        version = await patient.cluster.server_version()
        seconds = await fastest(patient.cluster.server_version)
    except InvalidSettings as error:
        return broken(error.detail, "Mend the kubeconfig: `kubectl --kubeconfig … get nodes` must work with it.")
    except KubernetesError as error:
        return _unreachable(patient, error)
    seen = f"{version} at {server} answers in {seconds * 1000:.0f} ms"
    if seconds > SLOW_SECONDS:
        return warning(seen, "A create makes two such calls: look at the load of the API server, and at the way to it.")
    return ok(seen)


def _unreachable(patient: Context, error: KubernetesError) -> Finding:
    server = patient.cluster.host
    if error.http_status == _UNAUTHORIZED:
        return broken(
            f"{server} does not know us: 401 Unauthorized",
            "The token or certificate in the kubeconfig has ended, or is of another cluster: get a new kubeconfig. "
            "The image has no aws, gcloud or kubelogin to fetch one with.",
        )
    if error.http_status != NO_ANSWER:
        return broken(f"{server} answers {error}", "Is this the API server? Compare K8S_API_SERVER and the kubeconfig.")
    if isinstance(error.__cause__, aiohttp.ClientConnectorCertificateError):
        return _distrusted(server, error.__cause__.certificate_error)
    if patient.in_container and _is_local(server):
        return broken(f"{server} does not answer: in a container, that is the container itself", from_container(server))
    return broken(
        f"{server} does not answer: {error.reason}: {error.message}",
        "Is the cluster up, and the server in the kubeconfig its address from here? K8S_API_SERVER replaces it.",
    )


def from_container(server: str) -> str:
    """The settings that name the host instead, all else as it is. A certificate keeps its name, if there is one."""
    parts = urlsplit(server)
    host = f"{HOST}:{parts.port}" if parts.port else HOST
    name = " K8S_TLS_SERVER_NAME=localhost" if parts.scheme == "https" else ""
    return f"K8S_API_SERVER={parts._replace(netloc=host).geturl()}{name}"


def _distrusted(server: str, error: Exception) -> Finding:
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    why = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
    if code in _WRONG_NAME:
        return broken(
            f"the certificate of {server} is for another name: {why}",
            "Set K8S_TLS_SERVER_NAME to a name that it was issued to: localhost, kubernetes, or the server's own.",
        )
    if code in _WRONG_TIME:
        return broken(f"the certificate of {server}: {why}", "Renew it, or set this host's clock right.")
    return broken(
        f"the certificate of {server} is not trusted: {why}",
        "Set K8S_CA_FILE to the PEM file of the authority that issued it, or get a kubeconfig that holds it.",
    )


def _is_local(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def permissions(patient: Context) -> Finding:
    namespace = patient.settings.k8s_namespace
    asked = [(verb, resource) for resource, verbs in (NEEDED | HELPFUL).items() for verb in verbs]
    try:
        allowed = await asyncio.gather(*(patient.cluster.may(*each, namespace) for each in asked))
    except KubernetesError as error:
        if error.http_status != _FORBIDDEN:
            raise
        return broken(f"may not even ask what it may: {error.message}", "Does the kubeconfig hold credentials at all?")
    missing = [each for each, may in zip(asked, allowed, strict=True) if not may]
    if not missing:
        return ok(f"all {len(asked)} in {namespace}")
    seen = f"missing in {namespace}: {', '.join(' '.join(each) for each in missing)}"
    advice = "Give them to the worker's service account, by a Role and a RoleBinding in that namespace."
    if any(resource in NEEDED for _, resource in missing):
        return broken(seen, advice)
    return warning(f"{seen}: why a sandbox is stuck is then not known", advice)
