"""Certificates of a test's own authority, made by the openssl command."""

import shutil
import subprocess
from pathlib import Path

import pytest

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


class Authority:
    """A certificate authority. Its files are in `directory`."""

    def __init__(self, directory: Path, name: str = "authority", issuer: "Authority | None" = None) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl to create certificates with")
        self._directory = directory
        self.certificate, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        if issuer is None:
            self._openssl("req", "-x509", *_KEY, "-days", "2", "-subj", f"/CN={name}", *self._output())
        else:
            issuer.sign(name, self.certificate, self.key, "basicConstraints=critical,CA:TRUE")

    def issue(self, name: str, extension: str = "extendedKeyUsage=clientAuth") -> tuple[Path, Path]:
        """Return the files of a new certificate and of its key."""
        files = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        self.sign(name, *files, extension)
        return files

    def sign(self, name: str, certificate: Path, key: Path, extension: str) -> None:
        request, extensions = certificate.with_suffix(".csr"), certificate.with_suffix(".ext")
        extensions.write_text(extension)
        self._openssl("req", "-new", *_KEY, "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request))
        signer = ["-CA", str(self.certificate), "-CAkey", str(self.key), "-CAcreateserial", "-days", "2"]
        self._openssl(
            "x509", "-req", "-in", str(request), *signer, "-extfile", str(extensions), "-out", str(certificate)
        )

    def _output(self) -> list[str]:
        return ["-out", str(self.certificate), "-keyout", str(self.key)]

    @staticmethod
    def _openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
