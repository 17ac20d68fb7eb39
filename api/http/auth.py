"""The API key: one shared secret, compared in constant time."""

import hmac

from shared.errors import Unauthorized
from shared.settings import Settings

HEADER = "X-API-Key"


class ApiKey:
    """The key that requests must send. If none is configured, all requests are refused, or all are allowed."""

    def __init__(self, settings: Settings) -> None:
        self._expected = settings.provisioner_api_key.encode()
        self._is_open = not self._expected and settings.provisioner_allow_anonymous

    def check(self, value: bytes | None) -> None:
        """Compare the key with `value`, the header of a request; None if the request has no such header.

        Raises:
            Unauthorized: the key is missing or wrong, or the server has none.
        """
        if self._is_open:
            return
        if not self._expected:
            raise Unauthorized("This server has no PROVISIONER_API_KEY and refuses every request. Set one.")
        if value is None:
            raise Unauthorized(f"The request has no API key. Send the key in the {HEADER} header.")
        if not hmac.compare_digest(value, self._expected):
            raise Unauthorized(f"The key in the {HEADER} header is not the key of this server.")
