"""The key of `/api`: one shared secret, compared in constant time, and closed unless somebody said open."""

import hmac

from shared.errors import Unauthorized
from shared.settings import Settings

HEADER = "X-API-Key"


class ApiKey:
    """`given` is the header as it came, None if it did not."""

    def __init__(self, settings: Settings) -> None:
        self._expected = settings.provisioner_api_key.encode()
        self._is_open = not self._expected and settings.provisioner_allow_anonymous

    def check(self, given: bytes | None) -> None:
        """Raises Unauthorized."""
        if self._is_open:
            return
        if not self._expected:
            raise Unauthorized("This server has no PROVISIONER_API_KEY, so it refuses every call; set one.")
        if given is None:
            raise Unauthorized(f"Send the key in the {HEADER} header.")
        if not hmac.compare_digest(given, self._expected):
            raise Unauthorized(f"The key in the {HEADER} header is not this server's.")
