"""The text that `make dev` prints when the stack runs."""

import os
import shlex
import sys
from collections.abc import Mapping

FORGETFUL = """\
The directory of --data has records of an earlier run. The emulated cluster forgets its Pods when it stops.
Sandboxes of that run are Failed with the reason PodLost. Delete them, or create them again."""


def introduction(url: str, key: str, settings: Mapping[str, str]) -> str:
    """Return the text, with the lines to copy at its end. `settings` are those of a worker."""
    return f"""
If something does not work, run the doctor:

  {doctor_command(settings)}

Ctrl-C stops all processes. In another shell, try the API:

  export URL={url} KEY={shlex.quote(key)}
  curl -s -X POST $URL/api/sandboxes -H "X-API-Key: $KEY" -d '{{"sandbox_id": "hello"}}'
  curl -s $URL/api/sandboxes/hello -H "X-API-Key: $KEY"
  curl -s -X DELETE $URL/api/sandboxes/hello -H "X-API-Key: $KEY"
"""


def doctor_command(settings: Mapping[str, str]) -> str:
    """Return one line for a shell in this directory. Log settings are left out, because the doctor writes no log."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in settings.items() if not name.startswith("LOG_")]
    return " ".join([*variables, shlex.quote(os.path.relpath(sys.executable)), "-m deploy.doctor"])
