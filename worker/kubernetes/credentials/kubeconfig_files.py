"""Reads kubeconfig files and merges them, by the rules of kubectl."""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import yaml
from msgspec.structs import replace

from worker.kubernetes.credentials.access import CredentialsError
from worker.kubernetes.credentials.kubeconfig_types import Cluster, Context, Kubeconfig, User, without_nulls

T = TypeVar("T")

_UTF8_MARK = b"\xef\xbb\xbf"


class _Loader(yaml.SafeLoader):
    """YAML without dates: as in kubectl, `2026-01-01` is text. The loader in C would crash at 100,000 levels."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Merged(NamedTuple):
    """Entries of all files by name. Paths in them are absolute. `path` names the files in messages."""

    path: str
    current_context: str
    clusters: Mapping[str, Cluster]
    users: Mapping[str, User]
    contexts: Mapping[str, Context]


class KubeconfigFiles:
    """One kubeconfig, or several that are separated by `:`. A file is parsed again only if its content has changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._files = [Path(part).expanduser().absolute() for part in dict.fromkeys(path.split(os.pathsep)) if part]
        self._parsed: dict[Path, tuple[bytes, Kubeconfig]] = {}

    def read(self) -> Merged:
        """Merge all files: of entries with one name, and of current contexts, the first one counts.

        Of several files, the missing ones are skipped.

        Raises:
            CredentialsError: a file cannot be used, or all files are missing.
        """
        configs = [(file.parent, config) for file in self._files if (config := self._read(file)) is not None]
        if not configs:
            raise CredentialsError(f"{self._path} is missing; mount the file or set the variable.")
        return Merged(
            self._path,
            next((config.current_context for _, config in configs if config.current_context), ""),
            _first(
                {c.name: _resolve_cluster(c.cluster, folder) for c in config.clusters} for folder, config in configs
            ),
            _first({u.name: _resolve_user(u.user, folder) for u in config.users} for folder, config in configs),
            _first({c.name: c.context for c in config.contexts} for _, config in configs),
        )

    def _read(self, file: Path) -> Kubeconfig | None:
        content = read_file(file)
        if content is None:
            return None
        known = self._parsed.get(file)
        if known is None or known[0] != content:
            known = self._parsed[file] = content, _parse(content, file)
        return known[1]


def read_file(file: Path) -> bytes | None:
    """Return the content of a regular file, or None if the file does not exist.

    Raises:
        CredentialsError: the file cannot be read.
    """
    try:
        mode = file.stat().st_mode
        content = file.read_bytes() if stat.S_ISREG(mode) else b""
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        user = f"This process runs as user {os.getuid()}; let that user read the file."
        raise CredentialsError(f"{file} cannot be read: {error.strerror}. {user}") from error
    if stat.S_ISDIR(mode):
        raise CredentialsError(
            f"expected a file; {file} is a directory. Docker creates a directory if the file to mount is missing on "
            "the host. Remove the directory and mount the real file."
        )
    if not stat.S_ISREG(mode):
        raise CredentialsError(f"expected a file; {file} is a pipe or a device, which cannot be read again. Copy it.")
    return content


def _parse(content: bytes, file: Path) -> Kubeconfig:
    try:
        config = msgspec.convert(without_nulls(_load(content, file)) or {}, Kubeconfig)
    except (msgspec.ValidationError, RecursionError) as error:
        raise CredentialsError(f"{file} is no kubeconfig: {_explain(error)}. {_compare(file)}") from error
    if (config.api_version, config.kind) != ("v1", "Config"):
        given = f"{config.api_version} {config.kind}"
        raise CredentialsError(f"{file} is no kubeconfig: expected `apiVersion: v1` and `kind: Config`; got {given}.")
    for kind, entries in (("cluster", config.clusters), ("user", config.users), ("context", config.contexts)):
        names = [entry.name for entry in entries]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise CredentialsError(f"{file} has two entries for the {kind} {doubled!r}. Remove one of them.")
    return config


def _load(content: bytes, file: Path) -> object:
    """Return the first document of a YAML file. The library knows UTF-8 and, by its first two bytes, UTF-16."""
    loader = None
    try:
        loader = _Loader(content.removeprefix(_UTF8_MARK))
        return loader.get_data() if loader.check_data() else None  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise CredentialsError(f"{file} is not YAML: {line}{error.problem}. {_compare(file)}") from error
    except yaml.YAMLError as error:  # the encoding
        raise CredentialsError(f"{file} is not YAML in UTF-8. Save it in UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise CredentialsError(f"{file} is not YAML: {error}. {_compare(file)}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _explain(error: Exception) -> str:
    """Return msgspec's message with the field first."""
    text, _, path = str(error).partition(" - at `$")
    return f"{path.strip('.`')}: {text}" if path else text


def _compare(file: Path) -> str:
    return f"See what `kubectl config view --kubeconfig {file}` reports."


def _first(maps: Iterable[dict[str, T]]) -> dict[str, T]:
    """Merge maps of all files. The first file that has a name sets its whole entry."""
    merged: dict[str, T] = {}
    for entries in maps:
        merged = entries | merged
    return merged


def _resolve_cluster(cluster: Cluster, folder: Path) -> Cluster:
    return replace(cluster, certificate_authority=_resolve(cluster.certificate_authority, folder))


def _resolve_user(user: User, folder: Path) -> User:
    """Resolve relative paths against the folder of the file. A command without a slash is looked for in `PATH`."""
    command = user.exec.command if user.exec else ""
    return replace(
        user,
        token_file=_resolve(user.token_file, folder),
        client_certificate=_resolve(user.client_certificate, folder),
        client_key=_resolve(user.client_key, folder),
        exec=replace(user.exec, command=_resolve(command, folder)) if user.exec and os.sep in command else user.exec,
    )


def _resolve(path: str, folder: Path) -> str:
    return str(folder / path) if path else ""
