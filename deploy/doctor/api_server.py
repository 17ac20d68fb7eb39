"""Checks of the cluster's API server: the connection, the credentials and the permissions."""

import asyncio
import ssl
from ipaddress import ip_address
from urllib.parse import urlsplit

import aiohttp

from deploy.doctor.context import Context
from deploy.doctor.findings import Finding, failed, ok, unknown, warning
from deploy.doctor.speed import fastest
from shared.errors import InvalidSettings
from worker.kubernetes.errors import NO_ANSWER, KubernetesError

SLOW_SECONDS = 0.5
"""Time of one call. A create makes two calls in a row, and a sandbox needs one second in all."""
HOST = "host.docker.internal"
"""Name of the host in containers of Docker Desktop, and in containers that map this name to the host."""
REQUIRED = {
    "pods": ("create", "delete", "get", "list", "watch"),
    "services": ("create", "delete", "get", "list", "watch"),
}
"""Calls of a worker in its namespace. A test compares REQUIRED and OPTIONAL with the calls of a real worker."""
OPTIONAL = {"events": ("list", "watch")}
"""Calls that explain why a sandbox is stuck. Sandboxes are created without them."""

_IN_WORKER = "Run the doctor in a worker's Pod too. A Pod of a worker needs the token of its ServiceAccount."
_UNAUTHORIZED, _FORBIDDEN = 401, 403
_WRONG_NAME = frozenset({62, 64})
"""OpenSSL's codes X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
_WRONG_TIME = frozenset({9, 10})
"""OpenSSL's codes X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


async def check_connection(context: Context) -> Finding:
    try:
        server = context.cluster.host
        version = await context.cluster.server_version()
        seconds = await fastest(context.cluster.server_version)
    except InvalidSettings as error:
        if context.in_pod_of_api:
            return unknown("this Pod has no account in the cluster, which is right for an API", _IN_WORKER)
        return failed(error.detail, "Fix the kubeconfig: `kubectl --kubeconfig … get nodes` must work with it.")
    except KubernetesError as error:
        return _connection_failure(context, error)
    detail = f"{version} at {server} answers in {seconds * 1000:.0f} ms"
    if seconds > SLOW_SECONDS:
        return warning(
            detail, "A create makes two such calls: check the load of the API server, and the network between."
        )
    return ok(detail)


def _connection_failure(context: Context, error: KubernetesError) -> Finding:
    server = context.cluster.host
    if error.http_status == _UNAUTHORIZED:
        return failed(
            f"{server} rejects the credentials: 401 Unauthorized",
            "The token or certificate in the kubeconfig has expired, or belongs to another cluster: get a new "
            "kubeconfig. The image contains no aws, gcloud or kubelogin to fetch a token.",
        )
    if error.http_status != NO_ANSWER:
        return failed(f"{server} answers {error}", "Is this the API server? Compare K8S_API_SERVER and the kubeconfig.")
    if isinstance(error.__cause__, aiohttp.ClientConnectorCertificateError):
        return _certificate_failure(server, error.__cause__.certificate_error)
    if context.in_container and _is_local(server):
        return failed(
            f"{server} does not answer: in a container, that address is the container itself",
            f"Set {container_settings(server)}",
        )
    return failed(
        f"{server} does not answer: {error.reason}: {error.message}",
        "Check that the cluster is up, and that the kubeconfig's server is its address from here. "
        "K8S_API_SERVER overrides that address.",
    )


def container_settings(server: str) -> str:
    """Return the settings that replace localhost by the host. With TLS, the certificate's name stays localhost."""
    parts = urlsplit(server)
    host = f"{HOST}:{parts.port}" if parts.port else HOST
    name = " K8S_TLS_SERVER_NAME=localhost" if parts.scheme == "https" else ""
    return f"K8S_API_SERVER={parts._replace(netloc=host).geturl()}{name}"


def _certificate_failure(server: str, error: Exception) -> Finding:
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
    reason = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
    if code in _WRONG_NAME:
        return failed(
            f"the certificate of {server} is for another name: {reason}",
            "Set K8S_TLS_SERVER_NAME to a name in the certificate: localhost, kubernetes, or the server's own name.",
        )
    if code in _WRONG_TIME:
        return failed(
            f"the certificate of {server} is not valid now: {reason}", "Renew it, or correct the clock of this host."
        )
    return failed(
        f"the certificate of {server} is not trusted: {reason}",
        "Set K8S_CA_FILE to the PEM file of the authority that issued it, or get a kubeconfig that contains it.",
    )


def _is_local(server: str) -> bool:
    host = urlsplit(server).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def check_permissions(context: Context) -> Finding:
    namespace = context.settings.k8s_namespace
    calls = [(verb, resource) for resource, verbs in (REQUIRED | OPTIONAL).items() for verb in verbs]
    try:
        answers = await asyncio.gather(*(context.cluster.is_allowed(*call, namespace) for call in calls))
    except KubernetesError as error:
        if error.http_status != _FORBIDDEN:
            raise
        return failed(
            f"the API server refuses to list the permissions of these credentials: {error.message}",
            "Check that the kubeconfig contains credentials.",
        )
    missing = [call for call, is_allowed in zip(calls, answers, strict=True) if not is_allowed]
    if not missing:
        return ok(f"all {len(calls)} permissions in {namespace}")
    detail = f"missing in {namespace}: {', '.join(' '.join(call) for call in missing)}"
    advice = "Grant them to the worker's service account, with a Role and a RoleBinding in that namespace."
    if any(resource in REQUIRED for _, resource in missing):
        return failed(detail, advice)
    return warning(f"{detail}; without them, no record says why a sandbox is stuck", advice)
