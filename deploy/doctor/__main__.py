"""`python -m deploy.doctor`: what is wrong with this deployment, and what to do about it."""

import argparse
import asyncio
import os
import shutil
import sys

from deploy.doctor.checks import CHECKS, SETTINGS
from deploy.doctor.context import open_context
from deploy.doctor.findings import broken
from deploy.doctor.report import as_json, as_table, must_mend
from deploy.doctor.runner import Result, result, run_checks
from shared.errors import InvalidSettings
from shared.settings import Settings, read_settings

_EPILOG = (
    "Give it the environment of a worker, and run it where one runs. It changes nothing. "
    "Exit code 1: something must be mended."
)


async def results(settings: Settings) -> list[Result]:
    async with open_context(settings) as patient:
        return await run_checks(patient, CHECKS)


def diagnose() -> list[Result]:
    try:
        settings = read_settings(os.environ)
    except InvalidSettings as error:
        return [result(SETTINGS, broken(error.detail, "Mend these: the README's table says what each of them is."))]
    return asyncio.run(results(settings))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.doctor", description=__doc__, epilog=_EPILOG)
    parser.add_argument("--json", action="store_true", help="for machines, instead of a table")
    asked = parser.parse_args()
    found = diagnose()
    sys.stdout.write(
        (as_json(found) if asked.json else as_table(found, shutil.get_terminal_size((110, 0)).columns)) + "\n"
    )
    sys.exit(int(must_mend(found)))


if __name__ == "__main__":
    main()
