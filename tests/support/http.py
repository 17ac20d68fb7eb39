"""HTTP requests that may fail because the server is not up yet."""

import httpx


async def response_or_none(client: httpx.AsyncClient, url: str, timeout: float = 5.0) -> httpx.Response | None:
    """Return the response of a GET, or None if there is no connection or no complete response."""
    try:
        return await client.get(url, timeout=timeout)
    except httpx.TransportError:
        return None
