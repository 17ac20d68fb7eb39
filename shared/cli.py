"""What the commands of both processes have in common: their settings, or a clear word about what is wrong with them."""

import argparse
import gc
import os
import sys
from typing import NoReturn

from shared.errors import InvalidSettings
from shared.settings import Settings, describe, read_settings

USAGE_ERROR = 2
"""Exit code of a process that refuses to start because of how it was called, as argparse has it."""


def add_print_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--print-settings", action="store_true", help="show the settings in force, secrets masked, and exit"
    )


def freeze() -> None:
    """Before the work begins: what imports have made stays till the end. The garbage collector need not look through it
    again and again, and hold everything up for ten milliseconds each time."""
    gc.collect()
    gc.freeze()


def refuse(error: InvalidSettings) -> NoReturn:
    print(f"The settings are wrong:\n{error.detail}", file=sys.stderr)
    raise SystemExit(USAGE_ERROR)


def settings_or_exit(*, show: bool) -> Settings:
    """The settings from the environment. Ends the process when they are wrong, or when only to be shown."""
    try:
        settings = read_settings(os.environ)
    except InvalidSettings as error:
        refuse(error)
    if show:
        print(describe(settings))
        raise SystemExit(0)
    return settings
