"""Check this installation of the provisioner, and print what is wrong and what to do."""

import argparse
import asyncio
import os
import shutil
import sys

from deploy.doctor.checks import CHECKS, SETTINGS
from deploy.doctor.context import open_context
from deploy.doctor.findings import failed
from deploy.doctor.report import as_json, as_table, has_failed
from deploy.doctor.runner import Result, result, run_checks
from shared import cli
from shared.errors import InvalidSettings
from shared.settings import Settings, read_settings

_EPILOG = (
    "Run the doctor where a worker runs, with the environment of that worker. The doctor changes nothing. "
    "The exit code is 1 if a check failed."
)


async def check(settings: Settings) -> list[Result]:
    async with open_context(settings) as context:
        return await run_checks(context, CHECKS)


def diagnose() -> list[Result]:
    """Run all checks. If the settings are invalid, no other check can run, and the list holds that one result."""
    try:
        settings = read_settings(os.environ)
    except InvalidSettings as error:
        return [result(SETTINGS, failed(error.detail, "Fix these settings. docs/settings.md describes each of them."))]
    return asyncio.run(check(settings))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.doctor", description=__doc__, epilog=_EPILOG)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    cli.add_version(parser)
    arguments = parser.parse_args()
    results = diagnose()
    columns = shutil.get_terminal_size((110, 0)).columns
    sys.stdout.write((as_json(results) if arguments.json else as_table(results, columns)) + "\n")
    sys.exit(int(has_failed(results)))


if __name__ == "__main__":
    main()
