"""What the library gives is what it gives when it is imported plainly, and takes less. Each in a process of its own."""

import subprocess
import sys

import pytest

OURS = "import worker.kubernetes.lazy_import"
LOADED = "[name for name in sys.modules if name.startswith('kubernetes_asyncio.client.models.')]"
NAMES = """
import importlib, inspect
def names(module):
    source = inspect.getsource(importlib.import_module(module))
    listed = [line.split()[3] for line in source.splitlines() if line.startswith('from kubernetes_asyncio')]
    return [(name, getattr(importlib.import_module(module), name).__module__) for name in listed]
print(names('kubernetes_asyncio.client') + names('kubernetes_asyncio.client.models'))
print(importlib.import_module('kubernetes_asyncio.client').__version__)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_of_it_is_there():
    """Every name, from the same module, and the version."""
    plain, ours = run(NAMES), run(OURS + NAMES)
    assert ours == plain
    assert len(plain) > 10_000


def test_models_are_not_loaded():
    """Until one is asked for, and then that one, with those that its own module needs."""
    assert run(f"{OURS}\nprint({LOADED})").strip() == "[]"
    used = run(f"{OURS}\nfrom kubernetes_asyncio.client import V1Pod\nprint(V1Pod(kind='Pod').kind, len({LOADED}))")
    kind, loaded = used.split()
    assert (kind, int(loaded) < 10) == ("Pod", True)


def test_a_client_decodes_into_models():
    """As the library's own clients do, which look for a model by its name."""
    code = f"""
{OURS}
from kubernetes_asyncio.client import ApiClient, CoreV1Api
import asyncio
async def main():
    async with ApiClient() as client:
        class Answer: data = '{{"metadata": {{"name": "abc"}}}}'
        print(client.deserialize(Answer, 'V1Pod').metadata.name, CoreV1Api(client).api_client is client)
asyncio.run(main())
"""
    assert run(code).split() == ["abc", "True"]


@pytest.mark.parametrize("name", ["NoSuchModel", "v1_pod_list_of_nothing"])
def test_what_it_does_not_have(name: str):
    """It says so as every module does."""
    told = run(
        f"{OURS}\nimport kubernetes_asyncio.client as c\ntry:\n    c.{name}\nexcept AttributeError as e:\n    print(e)"
    )
    assert told.strip() == f"module 'kubernetes_asyncio.client' has no attribute '{name}'"


def test_whoever_came_before_keeps_what_it_has():
    code = (
        f"import kubernetes_asyncio.client as c\npod = c.V1Pod\n{OURS}\nprint(c.V1Pod is pod, '__getattr__' in vars(c))"
    )
    assert run(code).split() == ["True", "False"]
