"""Proxies between the worker and the API server, by the rules of Go's clients (golang.org/x/net/http/httpproxy).

Aiohttp reads the environment by other rules: it knows no networks, ports and wildcards in `NO_PROXY`.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from worker.kubernetes.credentials.access import CredentialsError

_PORTS = {"http": 80, "https": 443}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def proxy_for(server: str, proxy_url: str, environment: Mapping[str, str]) -> str | None:
    """Return the URL of the proxy to this server: a kubeconfig's proxy-url, or that of the environment.

    Raises:
        CredentialsError: the proxy is of a kind that this service cannot use.
    """
    if proxy_url:
        return _supported("proxy-url", proxy_url)
    name, url = _variable(f"{urlsplit(server).scheme}_proxy", environment)
    if not url or _is_excluded(server, _variable("no_proxy", environment)[1]):
        return None
    return _supported(name, url if "://" in url else f"http://{url}")


def _variable(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the variable's name and value. Capitals come first, but a CGI server sets HTTP_PROXY from a header."""
    is_cgi = "REQUEST_METHOD" in environment and name == "http_proxy"
    names = [name] if is_cgi else [name.upper(), name]
    return next(((name, environment[name]) for name in names if environment.get(name)), (name, ""))


def _supported(name: str, url: str) -> str:
    """Return the URL if aiohttp can use the proxy. Over TLS, aiohttp would trust the cluster's authority only."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "http" and parts.hostname and parts.port != 0:
            return parts.geturl()
    except ValueError:
        pass
    raise CredentialsError(
        f"{name}: expected a proxy http://host:port; got {url.rpartition('@')[2]!r}, which is not supported. "
        "Use a proxy over plain HTTP, or add the API server to NO_PROXY."
    )


def _is_excluded(server: str, no_proxy: str) -> bool:
    """Return True if the server is to be reached without the proxy of the environment."""
    parts = urlsplit(server)
    host, port = (parts.hostname or "").lower(), str(parts.port or _PORTS[parts.scheme])
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry.strip().lower(), host, port, address) for entry in no_proxy.split(","))


def _matches(entry: str, host: str, port: str, address: Address | None) -> bool:
    """Return True if an entry of NO_PROXY names this server.

    An entry is `*`, a network, an address or a domain. The last two can have a port. A domain covers its subdomains;
    with a leading dot or `*.`, only these.
    """
    if entry == "*":
        return True
    if "/" in entry:
        return _is_in_network(entry, address)
    name, its_port = _split_port(entry)
    if not name or its_port not in {"", port}:
        return False
    if (entry_address := _address(name)) is not None:
        return entry_address == address
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _is_in_network(entry: str, address: Address | None) -> bool:
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
    return address is not None and address in network


def _split_port(entry: str) -> tuple[str, str]:
    """Split `host:port` and `[address]:port`. An address of version 6 without brackets has no port."""
    host, colon, port = entry.rpartition(":")
    if not colon or _address(entry) is not None or entry.endswith("]"):
        return entry.strip("[]"), ""
    return host.strip("[]"), port


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
