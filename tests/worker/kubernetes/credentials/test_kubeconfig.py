"""Kubeconfigs are read as kubectl reads them, or refused by name. The reference is kubectl itself."""

import asyncio
import os
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.deploy.rendering import kubectl
from tests.support.api_server import ApiServer
from tests.support.kubeconfig import API_VERSION, KubeconfigFile
from tests.worker.kubernetes.conftest import open_client
from worker.kubernetes.client import PODS
from worker.kubernetes.credentials.access import Access, CredentialsError
from worker.kubernetes.credentials.kubeconfig import KubeconfigSource

pytestmark = pytest.mark.anyio

SERVER = "https://localhost:6443"
TOKEN = {"token": "secret"}


def config_of(user: dict[str, Any], **cluster: Any) -> dict[str, Any]:
    return {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "clusters": [{"name": "c", "cluster": {"server": SERVER, **cluster}}],
        "users": [{"name": "c", "user": user}],
    }


async def read(path: Path | str) -> Access:
    return await KubeconfigSource(str(path)).read(renew=False)


async def access_of(tmp_path: Path, config: dict[str, Any] | str | bytes) -> Access:
    """Write a kubeconfig and read it."""
    content = config if isinstance(config, str | bytes) else yaml.safe_dump(config)
    (tmp_path / "config").write_bytes(content if isinstance(content, bytes) else content.encode())
    return await read(tmp_path / "config")


async def refusal_of(tmp_path: Path, config: dict[str, Any] | str | bytes) -> str:
    """Return the message of the refusal, which is one line and names the file."""
    with pytest.raises(CredentialsError) as refusal:
        await access_of(tmp_path, config)
    message = str(refusal.value)
    assert "\n" not in message
    assert str(tmp_path / "config") in message
    assert "secret" not in message
    return message


async def run_kubectl(*arguments: str, **variables: str) -> tuple[int, str]:
    """Run kubectl with these environment variables; return its exit code, and its output or what it reports."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables}
    done = await asyncio.to_thread(
        subprocess.run, [kubectl(), *arguments], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout or done.stderr


# Several files


FIRST = {
    "current-context": "first",
    "clusters": [{"name": "x", "cluster": {"server": "https://first:1"}}],
    "users": [{"name": "u", "user": {"token": "first"}}],
    "contexts": [{"name": "first", "context": {"cluster": "x", "user": "u"}}],
}
SECOND = {
    "current-context": "second",
    "clusters": [
        {"name": "x", "cluster": {"server": "https://second:1", "proxy-url": "http://proxy:1"}},
        {"name": "z", "cluster": {"server": "https://other:1"}},
    ],
    "users": [{"name": "u", "user": {"tokenFile": "token"}}, {"name": "v", "user": {"token": "other"}}],
    "contexts": [
        {"name": "first", "context": {"cluster": "z", "user": "v"}},
        {"name": "second", "context": {"cluster": "z", "user": "v"}},
    ],
}
USERS_ONLY = {"users": [{"name": "v", "user": {"token": "third"}}]}


@pytest.mark.parametrize(
    "order",
    ["first", "first:second", "second:first", "users:second", "users:first:second", "absent:second", ":first::second:"],
)
async def test_files_are_merged_as_by_kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str):
    monkeypatch.chdir(tmp_path)
    for name, config in (("first", FIRST), ("second", SECOND), ("users", USERS_ONLY)):
        (tmp_path / name).write_text(yaml.safe_dump(config))
    code, output = await run_kubectl("config", "view", "--raw", "--minify", "-o", "json", KUBECONFIG=order)
    assert code == 0, output
    expected = msgspec.json.decode(output)
    access = await read(order)
    cluster = expected["clusters"][0]["cluster"]
    assert (access.server, access.proxy_url) == (cluster["server"], cluster.get("proxy-url", ""))
    assert dict(access.headers)["Authorization"] == f"Bearer {expected['users'][0]['user']['token']}"


async def test_missing_files_are_refused_together(tmp_path: Path):
    with pytest.raises(CredentialsError, match=r"/a:.*/b is missing; mount the file"):
        await read(f"{tmp_path}/a:{tmp_path}/b")


async def test_file_that_cannot_be_used_is_not_skipped(tmp_path: Path):
    (tmp_path / "good").write_text(yaml.safe_dump(FIRST))
    (tmp_path / "bad").write_text("- a list")
    with pytest.raises(CredentialsError, match="/bad is no kubeconfig: Expected `object`, got `array`"):
        await read(f"{tmp_path}/good:{tmp_path}/bad")


async def test_relative_paths_start_at_the_folder_of_their_file(tmp_path: Path):
    """Also in a file that is not the first one."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "token").write_text("from the file\n")
    (tmp_path / "users").write_text(yaml.safe_dump({"users": [{"name": "x", "user": {"token": "x"}}]}))
    (folder / "config").write_text(yaml.safe_dump(config_of({"tokenFile": "token"})))
    access = await read(f"{tmp_path}/users:{folder}/config")
    assert dict(access.headers)["Authorization"] == "Bearer from the file"


async def test_relative_command_starts_at_the_folder_of_its_file(tmp_path: Path):
    """A command without a slash is looked for in PATH."""
    plugin = tmp_path / "bin" / "plugin"
    plugin.parent.mkdir()
    text = f'{{"apiVersion": "{API_VERSION}", "kind": "ExecCredential", "status": {{"token": "printed"}}}}'
    plugin.write_text(f"#!/bin/sh\necho '{text}'\n")
    plugin.chmod(0o700)
    for command, variables in (("bin/plugin", []), ("plugin", [{"name": "PATH", "value": str(plugin.parent)}])):
        user = {"exec": {"apiVersion": API_VERSION, "command": command, "env": variables, "interactiveMode": "Never"}}
        access = await access_of(tmp_path, config_of(user))
        assert dict(access.headers)["Authorization"] == "Bearer printed"


# Files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
async def test_encodings_that_kubectl_reads_are_read(tmp_path: Path, encoding: str):
    """PowerShell writes UTF-16."""
    text = yaml.safe_dump(config_of({"token": "ä"}), allow_unicode=True)
    access = await access_of(tmp_path, text.encode(encoding))
    assert dict(access.headers)["Authorization"] == "Bearer ä"
    code, output = await run_kubectl("config", "view", "--raw", "-o", "json", KUBECONFIG=str(tmp_path / "config"))
    assert (code, msgspec.json.decode(output)["users"][0]["user"]["token"]) == (0, "ä")


async def test_only_the_first_document_counts(tmp_path: Path):
    second = yaml.safe_dump(config_of({"token": "second"}))
    access = await access_of(tmp_path, yaml.safe_dump(config_of({"token": "first"})) + "---\n" + second)
    assert dict(access.headers)["Authorization"] == "Bearer first"


DEEP = "[" * 100_000
REFUSED_FILES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty: it has no contexts. Mount a complete kubeconfig."),
    "comments only": ("# nothing\n", "is empty"),
    "an empty mapping": ("{}", "is empty"),
    "a list": ("- a", "is no kubeconfig: Expected `object`, got `array`"),
    "a text": ("hello", "is no kubeconfig: Expected `object`, got `str`"),
    "UTF-16 without its mark": ("clusters: []".encode("utf-16-le"), "is not YAML in UTF-8. Save it in UTF-8."),
    "binary": (bytes(range(256)), "is not YAML"),
    "broken YAML": ("users:\n- name: [secret", "is not YAML: line 2: "),
    "a tab": ("\t:", "is not YAML: line 1: "),
    "too many levels": (DEEP, "is not YAML"),
    "another kind": ("kind: Pod\napiVersion: v1\n", "expected `apiVersion: v1` and `kind: Config`; got v1 Pod"),
    "an unknown tag": ("users: !!python/object:os.system {}", "is not YAML: line 1: "),
}


@pytest.mark.parametrize(("content", "message"), REFUSED_FILES.values(), ids=REFUSED_FILES)
async def test_file_that_is_no_kubeconfig_is_refused(tmp_path: Path, content: str | bytes, message: str):
    assert message in await refusal_of(tmp_path, content)


async def test_directory_pipe_and_unreadable_file_are_refused(tmp_path: Path):
    with pytest.raises(CredentialsError, match="is a directory"):
        await read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CredentialsError, match="is a pipe or a device"):
        await read(tmp_path / "pipe")


# Entries


C = config_of(TOKEN)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no current-context": ({**C, "current-context": ""}, "has no current-context. Set it to one of its contexts: c."),
    "an unknown context": (
        {**C, "current-context": "d"},
        "the current-context 'd', which is not among its contexts: c",
    ),
    "an unknown cluster": ({**C, "clusters": []}, "names the cluster 'c', which is not among its clusters: none."),
    "an unknown user": ({**C, "users": None}, "names the user 'c', which is not among its users: none."),
    "no user": ({**C, "contexts": [{"name": "c", "context": {"cluster": "c"}}]}, "the user has no credentials"),
    "no credentials": (config_of({}), "the user has no credentials: no token, no client certificate, no exec plugin."),
    "two clusters of one name": ({**C, "clusters": C["clusters"] * 2}, "two entries for the cluster 'c'"),
    "a text for a boolean": (
        config_of(TOKEN, **{"insecure-skip-tls-verify": "false"}),
        "clusters[0].cluster.insecure-skip-tls-verify: Expected `bool`, got `str`",
    ),
    "a number for a token": (config_of({"token": 123}), "users[0].user.token: Expected `str`, got `int`"),
    "auth-provider": (config_of({"auth-provider": {"name": "oidc"}}), "auth-provider 'oidc' is not supported"),
    "two ways to log in": (config_of({**TOKEN, "username": "u"}), "the user has a token and a username"),
    "insecure with an authority": (
        config_of(TOKEN, **{"insecure-skip-tls-verify": True, "certificate-authority-data": "aGVs"}),
        "insecure-skip-tls-verify and a certificate-authority exclude each other",
    ),
    "no base64": (
        config_of(TOKEN, **{"certificate-authority-data": "a!"}),
        "certificate-authority-data: expected base64",
    ),
    "a missing authority": (config_of(TOKEN, **{"certificate-authority": "none"}), "/none is missing; mount the file"),
    "a certificate without key": (config_of({"client-certificate-data": "aGVs"}), "without a client-key"),
    "a missing token file": (config_of({"tokenFile": "none"}), "/none is missing"),
    "a token of two lines": (config_of({"token": "secret\nx"}), "token: expected text without line breaks"),
    "groups without a user": (config_of({**TOKEN, "as-groups": ["g"]}), "as-groups needs `as`"),
    "extra without a user": (config_of({**TOKEN, "as-user-extra": {"a": ["b"]}}), "as-user-extra needs `as`"),
    "a user of two lines": (config_of({**TOKEN, "as": "a\r\nX: y"}), "as: expected text without line breaks"),
    "no server": (config_of(TOKEN, server=""), "server: expected a URL, https://host:port; got ''"),
    "a server without scheme": (config_of(TOKEN, server="host:6443"), "server: expected a URL"),
    "another scheme": (config_of(TOKEN, server="ftp://host"), "server: expected a URL"),
    "an impossible port": (config_of(TOKEN, server="https://host:99999"), "server: expected a URL"),
    "a query": (config_of(TOKEN, server="https://host?a=b"), "without user, query and fragment"),
    "a password in the URL": (config_of(TOKEN, server="https://u:secret@host"), "without user, query and fragment"),
    "exec without command": (config_of({"exec": {"apiVersion": API_VERSION}}), "exec has no command"),
    "an old version of exec": (
        config_of({"exec": {"apiVersion": "client.authentication.k8s.io/v1alpha1", "command": "p"}}),
        "expected apiVersion client.authentication.k8s.io/v1 or",
    ),
    "exec with a terminal": (
        config_of({"exec": {"apiVersion": API_VERSION, "command": "p", "interactiveMode": "Always"}}),
        "interactiveMode 'Always' is not supported",
    ),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
async def test_entry_that_cannot_be_used_is_refused(tmp_path: Path, config: dict[str, Any], message: str):
    assert message in await refusal_of(tmp_path, config)


ACCEPTED: dict[str, dict[str, Any]] = {
    "unknown fields": config_of(TOKEN, **{"disable-compression": True, "later": {"a": 1}}),
    "a date as token": config_of({"token": "2026-01-01"}),
    "null for empty": {**config_of({**TOKEN, "tokenFile": None, "exec": None}), "preferences": None},
    "a key without certificate": config_of({**TOKEN, "client-key-data": "aGVs"}),
}


@pytest.mark.parametrize("config", ACCEPTED.values(), ids=ACCEPTED)
async def test_entry_that_kubectl_accepts_is_accepted(tmp_path: Path, config: dict[str, Any]):
    text = yaml.safe_dump(config).replace("'2026-01-01'", "2026-01-01")
    access = await access_of(tmp_path, text)
    assert dict(access.headers)["Authorization"] == f"Bearer {config['users'][0]['user']['token']}"
    assert (await run_kubectl("config", "view", KUBECONFIG=str(tmp_path / "config")))[0] == 0


@pytest.mark.parametrize(
    ("server", "cluster", "url"),
    [
        ("HTTPS://Host:6443/", {}, "https://Host:6443"),
        ("https://host/k8s/clusters/c-1/", {}, "https://host/k8s/clusters/c-1"),
        ("host:6443", {"insecure-skip-tls-verify": True}, "https://host:6443"),
        ("https://[::1]:6443", {}, "https://[::1]:6443"),
    ],
)
async def test_server_is_normalized_as_by_kubectl(tmp_path: Path, server: str, cluster: dict[str, Any], url: str):
    assert (await access_of(tmp_path, config_of(TOKEN, server=server, **cluster))).server == url


async def test_server_without_tls_needs_no_credentials(tmp_path: Path):
    """So does a local `kubectl proxy`."""
    config = config_of({}, server="http://localhost:8001")
    config["contexts"][0]["context"].pop("user")
    assert (await access_of(tmp_path, config)).headers == ()


# Who sends the request, compared with kubectl


IDENTITIES: dict[str, dict[str, Any]] = {
    "token": {"token": "inline"},
    "token file": {"tokenFile": "token"},
    "token file before token": {"token": "inline", "tokenFile": "token"},
    "token if its file is missing": {"token": "inline", "tokenFile": "missing"},
    "basic": {"username": "ann", "password": "pä:ss"},
    "certificate": {"client-certificate": "{certificate}", "client-key": "{key}"},
    "certificate as data": {"client-certificate-data": "{certificate_data}", "client-key-data": "{key_data}"},
    "data before file": {
        "client-certificate": "{other}",
        "client-key": "{other_key}",
        "client-certificate-data": "{certificate_data}",
        "client-key-data": "{key_data}",
    },
    "certificate and token": {"token": "inline", "client-certificate": "{certificate}", "client-key": "{key}"},
    "plugin": {"exec": "{plugin}"},
    "token before plugin": {"token": "inline", "exec": "{plugin}"},
    "certificate and plugin": {"client-certificate": "{certificate}", "client-key": "{key}", "exec": "{plugin}"},
    "impersonation": {
        "token": "inline",
        "as": "ann",
        "as-uid": "u 1",
        "as-groups": ["devs", "ops"],
        "as-user-extra": {"scopes": ["a", "b"], "example.com/x y%": ["c"]},
    },
}
TWICE_GIVEN = {"data before file"}
"""Kubectl refuses a certificate that is given twice. This service reads the data, which kubectl's message names."""


@pytest.mark.parametrize("name", IDENTITIES)
async def test_request_is_sent_by_the_same_identity_as_kubectls(
    kubeconfig_file: KubeconfigFile, api_server: ApiServer, name: str
):
    certificate, key = api_server.authority.issue("client")
    other, other_key = api_server.authority.issue("other")
    kubeconfig_file.write_plugin({"token": "printed"})
    plugin = yaml.safe_load(kubeconfig_file.path.read_text())["users"][0]["user"]["exec"]
    kubeconfig_file.token.write_text("from a file\n")
    paths = {"certificate": certificate, "key": key, "other": other, "other_key": other_key}
    data = {f"{field}_data": b64encode(path.read_bytes()).decode() for field, path in paths.items()}
    user = {
        field: plugin if value == "{plugin}" else value.format(**paths, **data) if isinstance(value, str) else value
        for field, value in IDENTITIES[name].items()
    }
    kubeconfig_file.write(user)
    api_server.accepted = {"Bearer inline", "Bearer from a file", "Bearer printed", "client"}
    api_server.accepted.add(f"Basic {b64encode('ann:pä:ss'.encode()).decode()}")
    async with await open_client(kubeconfig_file) as client:
        await client.list_all(PODS)
    if name in TWICE_GIVEN:
        assert api_server.requests[-1].certificate == "client"
        return
    path = api_server.requests[-1].path
    code, output = await run_kubectl("get", "--raw", path, KUBECONFIG=str(kubeconfig_file.path))
    assert code == 0, output
    ours, theirs = api_server.requests[-2:]
    assert ours.identity == theirs.identity
