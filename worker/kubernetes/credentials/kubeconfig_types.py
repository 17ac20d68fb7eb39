"""Structs of a kubeconfig, with the fields that concern a client. The decoder skips all other fields.

An absent field and `null` are the empty value, as in kubectl. Values of a wrong type are refused, as in kubectl.
"""

from collections.abc import Mapping

import msgspec
from msgspec import field


class _Kebab(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    pass


class _Camel(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    pass


class Extension(_Kebab, frozen=True):
    name: str = ""
    extension: object = None


class Cluster(_Kebab, frozen=True):
    server: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    proxy_url: str = ""
    extensions: tuple[Extension, ...] = ()


class Variable(_Camel, frozen=True):
    name: str = ""
    value: str = ""


class Exec(_Camel, frozen=True):
    """Command that prints a credential (client.authentication.k8s.io)."""

    api_version: str = ""
    command: str = ""
    args: tuple[str, ...] = ()
    env: tuple[Variable, ...] = ()
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""


class AuthProvider(_Kebab, frozen=True):
    name: str = ""


class User(_Kebab, frozen=True):
    token: str = ""
    token_file: str = field(default="", name="tokenFile")
    username: str = ""
    password: str = ""
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    impersonate: str = field(default="", name="as")
    impersonate_uid: str = field(default="", name="as-uid")
    impersonate_groups: tuple[str, ...] = field(default=(), name="as-groups")
    impersonate_extra: Mapping[str, tuple[str, ...]] = field(default={}, name="as-user-extra")
    auth_provider: AuthProvider | None = None
    exec: Exec | None = None


class Context(_Kebab, frozen=True):
    cluster: str = ""
    user: str = ""


class NamedCluster(_Kebab, frozen=True):
    name: str = ""
    cluster: Cluster = Cluster()


class NamedUser(_Kebab, frozen=True):
    name: str = ""
    user: User = User()


class NamedContext(_Kebab, frozen=True):
    name: str = ""
    context: Context = Context()


class Kubeconfig(_Kebab, frozen=True):
    api_version: str = field(default="v1", name="apiVersion")
    kind: str = "Config"
    current_context: str = ""
    clusters: tuple[NamedCluster, ...] = ()
    users: tuple[NamedUser, ...] = ()
    contexts: tuple[NamedContext, ...] = ()


def without_nulls(value: object) -> object:
    """Return the value without the keys whose value is null: as in Go, null is the empty value of every type."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
