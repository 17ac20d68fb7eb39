"""The image, as far as it can be known without building it: what it copies, and that this is all the commands need."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "shared", "worker", "deploy/doctor")
COPIED = {*PACKAGES, "deploy/__init__.py", "requirements.txt"}
INSTRUCTIONS = [
    line.split(maxsplit=1)
    for line in (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if line and not line.startswith("#")
]
FINAL = INSTRUCTIONS[max(i for i, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM") :]


def arguments(name: str, instructions: list[list[str]]) -> list[str]:
    return [given for instruction, given in instructions if instruction == name]


def test_its_base_is_a_slim_python_of_one_version_that_the_project_supports():
    (base,) = re.findall(
        r"^BASE=python:(\d+\.\d+)\.\d+-slim-[a-z]+$", "\n".join(arguments("ARG", INSTRUCTIONS)), re.MULTILINE
    )
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wanted == f">={base}"
    assert all(given.startswith("${BASE}") for given in arguments("FROM", INSTRUCTIONS))


def test_it_runs_as_a_number_that_is_not_root():
    assert [user for user in arguments("USER", FINAL) if re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)]


def test_its_command_is_the_api_and_nothing_stands_in_the_way_of_another():
    assert arguments("CMD", FINAL) == ['["python", "-m", "api", "--host", "0.0.0.0", "--port", "8002"]']
    assert not arguments("ENTRYPOINT", FINAL)
    assert not arguments("HEALTHCHECK", INSTRUCTIONS), "a worker's is another one than the API's"


def test_it_copies_its_commands_and_what_they_need():
    copied = {
        given.split()[0].rstrip("/")
        for given in arguments("COPY", INSTRUCTIONS)
        if not given.startswith("--from=build ")
    }
    assert copied == COPIED
    assert not arguments("ADD", INSTRUCTIONS)


def test_the_builder_is_sent_nothing_else():
    """So that no kubeconfig, `.env` or history can end up in a layer by mistake."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:].rstrip("/") for line in lines if line.startswith("!")} == COPIED


def test_its_requirements_hold_all_that_the_code_imports():
    """Each module of another's that is imported is in requirements.txt, pinned to one version."""
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    distributions = packages_distributions()
    imported = {name for package in PACKAGES for path in (ROOT / package).rglob("*.py") for name in imports(path)}
    foreign = imported - sys.stdlib_module_names - {package.partition("/")[0] for package in PACKAGES}
    missing = {
        name for name in foreign if not {d.lower().replace("_", "-") for d in distributions.get(name, [])} & pinned
    }
    assert foreign
    assert not missing


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (("api", "--print-settings"), "K8S_NAMESPACE=deer-flow"),
        (("worker", "--print-settings"), "K8S_NAMESPACE=deer-flow"),
        (("deploy.doctor", "--help"), "--json"),
    ],
)
def test_its_commands_start_from_what_it_copies(tmp_path, command, shown):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "deploy/__init__.py", tmp_path / "deploy")
    written = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env={"PROVISIONER_API_KEY": "a-secret", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert shown in written
    assert "a-secret" not in written
