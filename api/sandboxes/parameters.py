"""Parameters that several sandbox routes take."""

from typing import Annotated

from litestar.params import HeaderParameter, PathParameter

from api.http.prefer import MAX_WAIT_SECONDS
from shared.sandbox.request import SANDBOX_ID

SandboxIdInPath = Annotated[
    str, PathParameter(pattern=SANDBOX_ID.python_pattern, schema_extra={"pattern": SANDBOX_ID.pattern})
]
Prefer = Annotated[
    str | None,
    HeaderParameter(name="Prefer", description=f"`wait=N`: hold the answer for N seconds, at most {MAX_WAIT_SECONDS}"),
]
