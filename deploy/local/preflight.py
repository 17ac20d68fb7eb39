"""Checks before the local stack starts. Each failure is one line, at once."""

import os
import secrets
import tempfile
from pathlib import Path

from deploy.doctor.api_server import check_connection
from deploy.doctor.context import open_context
from deploy.doctor.findings import Verdict
from deploy.local.stack import Options, is_in_use
from shared.errors import InvalidSettings
from shared.settings import Settings, read_settings

KEY_FILE = "api-key"


class NotStartable(Exception):
    """Says in one line which argument or setting is wrong."""


async def check(options: Options) -> None:
    """Check everything that a person can get wrong.

    Raises:
        NotStartable: the stack cannot start with these options.
    """
    settings = _settings(options)
    if options.port and is_in_use(options.port):
        raise NotStartable(f"port {options.port} is in use by another process: choose another port with --port")
    if options.data:
        _require_writable(options.data)
    if options.kubeconfig:
        _require_file(options.kubeconfig)
        await _require_cluster(settings)


def kept_key(data: Path | None) -> dict[str, str]:
    """Return the API key of the environment or of the data directory as a setting. A first run creates the file.

    Raises:
        NotStartable: the file cannot be read or written.
    """
    if data is None or os.environ.get("PROVISIONER_API_KEY", "").strip():
        return {}
    file = data / KEY_FILE
    try:
        if not file.exists():
            file.touch(0o600)
            file.write_text(secrets.token_hex(16))
        return {"PROVISIONER_API_KEY": file.read_text().strip()}
    except OSError as error:
        raise NotStartable(f"--data: {file} cannot be used: {error.strerror}") from error


def has_records(data: Path | None) -> bool:
    """Return True if an earlier run has left its records in the data directory."""
    return data is not None and (data / "appendonlydir").exists()


def _settings(options: Options) -> Settings:
    try:
        return read_settings({**os.environ, "KUBECONFIG_PATH": str(options.kubeconfig or "")})
    except InvalidSettings as error:
        raise NotStartable(f"wrong settings: {error.detail}") from error


def _require_writable(data: Path) -> None:
    try:
        data.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=data):
            pass
    except OSError as error:
        raise NotStartable(f"--data: {data} is no directory to write to: {error.strerror}") from error


def _require_file(kubeconfig: Path) -> None:
    if not kubeconfig.is_file():
        raise NotStartable(f"--kubeconfig: {kubeconfig} is not a file")


async def _require_cluster(settings: Settings) -> None:
    async with open_context(settings) as context:
        finding = await check_connection(context)
    if finding.verdict not in {Verdict.OK, Verdict.WARNING}:
        text = " ".join(f"{finding.detail} → {finding.advice}".split())
        raise NotStartable(f"--kubeconfig: {text}")
