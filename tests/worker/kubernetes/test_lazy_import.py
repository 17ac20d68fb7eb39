"""The lazily imported library equals the plainly imported one, and loads less. Each test starts processes."""

import subprocess
import sys

import pytest

LAZY = "import worker.kubernetes.lazy_import"
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


def test_lazy_import_has_all_names_of_plain_import():
    plain, lazy = run(NAMES), run(LAZY + NAMES)
    assert lazy == plain
    assert len(plain) > 10_000


def test_model_is_loaded_at_first_use():
    """Only that model is loaded, with those that its module imports."""
    assert run(f"{LAZY}\nprint({LOADED})").strip() == "[]"
    output = run(f"{LAZY}\nfrom kubernetes_asyncio.client import V1Pod\nprint(V1Pod(kind='Pod').kind, len({LOADED}))")
    kind, loaded = output.split()
    assert (kind, int(loaded) < 10) == ("Pod", True)


def test_client_of_library_decodes_into_models():
    """The library's clients get a model by its name."""
    code = f"""
{LAZY}
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
def test_unknown_name_raises_attribute_error(name: str):
    output = run(
        f"{LAZY}\nimport kubernetes_asyncio.client as c\ntry:\n    c.{name}\nexcept AttributeError as e:\n    print(e)"
    )
    assert output.strip() == f"module 'kubernetes_asyncio.client' has no attribute '{name}'"


def test_earlier_plain_import_stays_unchanged():
    code = (
        f"import kubernetes_asyncio.client as c\npod = c.V1Pod\n{LAZY}\nprint(c.V1Pod is pod, '__getattr__' in vars(c))"
    )
    assert run(code).split() == ["True", "False"]
