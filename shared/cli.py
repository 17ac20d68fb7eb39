"""Parts that the commands of both processes share: reading settings, and refusing wrong ones."""

import argparse
import gc
import os
import sys
from typing import NoReturn

from shared.errors import InvalidSettings
from shared.setting_warnings import misspelled, without_effect
from shared.settings import Settings, describe, read_settings
from shared.version import VERSION

USAGE_ERROR = 2
"""Exit code of a process that was started in a wrong way; the same as argparse's."""


def add_print_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--print-settings", action="store_true", help="print the settings in force, with secrets masked, and exit"
    )


def add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action="version", version=VERSION, help="print the version, and exit")


def freeze() -> None:
    """Exclude all present objects from garbage collection. Call this after imports and before the work starts.

    Objects of imports live until the process ends. Each collection would scan them and pause the process for 10 ms.
    """
    gc.collect()
    gc.freeze()


def refuse(error: InvalidSettings) -> NoReturn:
    """Print what is wrong, and exit."""
    print(f"Wrong settings:\n{error.detail}", file=sys.stderr)
    raise SystemExit(USAGE_ERROR)


def settings_or_exit(*, show: bool) -> Settings:
    """Return the settings from the environment. Exit if they are wrong, or after printing them if `show` is set."""
    try:
        settings = read_settings(os.environ)
    except InvalidSettings as error:
        refuse(error)
    for line in (*misspelled(os.environ), *without_effect(settings)):
        print(f"Warning: {line}", file=sys.stderr)
    if show:
        print(describe(settings))
        raise SystemExit(0)
    return settings
