"""The `.venv` that make creates, with a fake Python that takes down its calls."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE = """\
#!/bin/sh
echo "$*" >> {log}
case "$*" in
    -c*) exit {is_too_old} ;;
    -V) echo "Python {version}" ;;
    "-m venv"*) rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements-dev.txt").touch()
    return tmp_path


def fake_python(directory: Path, version: str) -> Path:
    file = directory / f"python-{version}"
    is_too_old = int(version.startswith("3.10"))
    file.write_text(FAKE.format(log=directory / "calls", version=version, is_too_old=is_too_old))
    file.chmod(0o755)
    return file


def make(directory: Path, python: Path) -> tuple[int, str, int]:
    """Return the exit code, the output, and how often a `.venv` was created."""
    (directory / "calls").write_text("")
    command = ["make", "--no-print-directory", ".venv/installed", f"PYTHON={python}"]
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    created = (directory / "calls").read_text().count("-m venv --clear .venv")
    return result.returncode, result.stdout + result.stderr, created


def test_venv_of_an_old_python_is_refused_before_it_is_created(directory: Path):
    code, output, created = make(directory, fake_python(directory, "3.10.1"))
    assert (code, created) == (2, 0)
    assert "must be Python 3.11 or newer" in output
    assert not (directory / ".venv").exists()


def test_venv_that_is_complete_stays(directory: Path):
    python = fake_python(directory, "3.11.9")
    assert make(directory, python)[::2] == (0, 1)
    assert make(directory, python)[::2] == (0, 0)


def test_venv_that_an_old_python_left_is_created_again(directory: Path):
    old = fake_python(directory, "3.10.1")
    (directory / ".venv/bin").mkdir(parents=True)
    shutil.copy(old, directory / ".venv/bin/python")
    (directory / ".venv/installed").touch()
    assert make(directory, fake_python(directory, "3.11.9"))[::2] == (0, 1)


def test_venv_whose_python_was_removed_is_created_again(directory: Path):
    python = fake_python(directory, "3.11.9")
    make(directory, python)
    (directory / ".venv/bin/python").unlink()
    assert make(directory, python)[::2] == (0, 1)
