"""The Dockerfile, checked without a build: the copied files are all that the commands of the image need."""

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
    return [argument for instruction, argument in instructions if instruction == name]


def test_base_is_a_slim_python_of_the_oldest_supported_version():
    (base,) = re.findall(
        r"^BASE=python:(\d+\.\d+)\.\d+-slim-[a-z]+$", "\n".join(arguments("ARG", INSTRUCTIONS)), re.MULTILINE
    )
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert supported == f">={base}"
    assert all(image.startswith("${BASE}") for image in arguments("FROM", INSTRUCTIONS))


def test_user_is_a_number_and_not_root():
    assert [user for user in arguments("USER", FINAL) if re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)]


def test_default_command_is_the_api_and_can_be_replaced():
    assert arguments("CMD", FINAL) == ['["python", "-m", "api", "--host", "0.0.0.0", "--port", "8002"]']
    assert not arguments("ENTRYPOINT", FINAL)
    assert not arguments("HEALTHCHECK", INSTRUCTIONS), "API and workers need different health checks"


def test_copied_files_are_the_packages_and_their_requirements():
    copied = {
        argument.split()[0].rstrip("/")
        for argument in arguments("COPY", INSTRUCTIONS)
        if not argument.startswith("--from=build ")
    }
    assert copied == COPIED
    assert not arguments("ADD", INSTRUCTIONS)


def test_build_context_contains_only_the_copied_files():
    """No kubeconfig, `.env` or git history can get into a layer by mistake."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:].rstrip("/") for line in lines if line.startswith("!")} == COPIED


def test_requirements_pin_every_imported_distribution():
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    distributions = packages_distributions()
    imported = {name for package in PACKAGES for path in (ROOT / package).rglob("*.py") for name in imports(path)}
    third_party = imported - sys.stdlib_module_names - {package.partition("/")[0] for package in PACKAGES}
    missing = {
        name for name in third_party if not {d.lower().replace("_", "-") for d in distributions.get(name, [])} & pinned
    }
    assert third_party
    assert not missing


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_have_hashes_and_no_address_of_a_registry(name: str):
    text = (ROOT / name).read_text()
    pins = re.findall(r"^[\w.-]+==.*\n(?:    --hash=sha256:[0-9a-f]{64}.*\n)*", text, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\S+==", text, re.MULTILINE))
    assert all("--hash=sha256:" in pin for pin in pins)
    assert "://" not in text


def test_image_installs_only_files_with_the_pinned_hashes():
    assert any("--require-hashes --requirement /tmp/requirements.txt" in run for run in arguments("RUN", INSTRUCTIONS))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("api", "--print-settings"), "K8S_NAMESPACE=deer-flow"),
        (("worker", "--print-settings"), "K8S_NAMESPACE=deer-flow"),
        (("deploy.doctor", "--help"), "--json"),
    ],
)
def test_command_starts_with_only_the_copied_files(tmp_path, command, text):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "deploy/__init__.py", tmp_path / "deploy")
    output = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env={"PROVISIONER_API_KEY": "a-secret", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert text in output
    assert "a-secret" not in output
