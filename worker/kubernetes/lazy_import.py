"""Import of the Kubernetes client library (the in-cluster configuration) without its models.

A plain import loads a module for each of Kubernetes' 700 kinds, a third of a worker's memory. The worker uses none of
these modules. The library's two big packages consist of `from … import …` lines. Here, each such name is imported at
its first use. The whole library stays usable, and an earlier plain import of it does not change.
"""

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import TypeGuard

_BIG_PACKAGES = frozenset({"kubernetes_asyncio.client", "kubernetes_asyncio.client.models"})


class _LazyLoader(SourceFileLoader):
    """Runs a module without its imports, and imports each name when the name is first used."""

    def exec_module(self, module: ModuleType) -> None:
        tree = ast.parse(self.get_data(self.path), str(self.path))
        origins = {alias.name: node.module for node in tree.body if _is_import(node) for alias in node.names}
        tree.body = [node for node in tree.body if not _is_import(node)]
        exec(compile(tree, str(self.path), "exec"), module.__dict__)  # noqa: S102 - the import system does the same

        def import_name(name: str) -> object:
            """Import a name that the module lacks. Python calls a module's `__getattr__` for those (PEP 562)."""
            if name not in origins:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            value = getattr(import_module(str(origins[name])), name)
            setattr(module, name, value)
            return value

        module.__dict__["__getattr__"] = import_name


def _is_import(node: ast.stmt) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and node.module != "__future__"


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _BIG_PACKAGES else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _LazyLoader(spec.loader.name, spec.loader.path)
        return spec


_finder = _Finder()
sys.meta_path.insert(0, _finder)
try:
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.config import ConfigException, load_incluster_config
finally:
    sys.meta_path.remove(_finder)

__all__ = ["ConfigException", "Configuration", "load_incluster_config"]
