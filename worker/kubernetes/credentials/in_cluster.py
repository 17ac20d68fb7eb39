"""Access from inside a Pod, with the token of its service account. kubernetes-asyncio reads and checks the files."""

import asyncio
from pathlib import Path

from worker.kubernetes.credentials.access import Access, CredentialsError
from worker.kubernetes.credentials.kubeconfig import read_token
from worker.kubernetes.lazy_import import ConfigException, Configuration, load_incluster_config

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class InClusterSource:
    """Reads the files of a service account again each time: the kubelet replaces the token before it expires."""

    def __init__(self, service_account: Path = SERVICE_ACCOUNT) -> None:
        self._service_account = service_account

    async def read(self, *, renew: bool) -> Access:  # noqa: ARG002 - the kubelet renews the token
        """Read the files.

        Raises:
            CredentialsError: this process is not in a Pod, or has no service account.
        """
        return await asyncio.to_thread(self._read_files)

    def _read_files(self) -> Access:
        token, authority = self._service_account / "token", self._service_account / "ca.crt"
        loaded = Configuration()
        try:
            load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=loaded,
                try_refresh_token=False,
                token_filename=str(token),
                cert_filename=str(authority),
            )
            content = authority.read_bytes()
        except (ConfigException, OSError, UnicodeDecodeError) as error:
            raise CredentialsError(str(error)) from error
        headers = (("Authorization", f"Bearer {read_token(token)}"),)
        return Access(server=str(loaded.host), headers=headers, authority=content)
