"""The Kubernetes client library: configuration, credentials, TLS. Its models load when they are asked for.

Imported plainly, it loads a module for each of Kubernetes' 700 kinds, of which we use none: a third of a worker's
memory. Its two big packages do nothing but `from … import …`; here each such name is imported when first asked for.
All of the library is there still, and whoever has imported it plainly before finds it as it was.
"""

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import TypeGuard

_BIG = frozenset({"kubernetes_asyncio.client", "kubernetes_asyncio.client.models"})


class _LazyLoader(SourceFileLoader):
    """Runs a module but for its imports, each of which waits until its name is asked for."""

    def exec_module(self, module: ModuleType) -> None:
        tree = ast.parse(self.get_data(self.path), str(self.path))
        origins = {alias.name: node.module for node in tree.body if _is_import(node) for alias in node.names}
        tree.body = [node for node in tree.body if not _is_import(node)]
        exec(compile(tree, str(self.path), "exec"), module.__dict__)  # noqa: S102 - as any import does

        def imported(name: str) -> object:
            """Python asks so for what a module does not have (PEP 562)."""
            if name not in origins:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            found = getattr(import_module(str(origins[name])), name)
            setattr(module, name, found)
            return found

        module.__dict__["__getattr__"] = imported


def _is_import(node: ast.stmt) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and node.module != "__future__"


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in _BIG else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _LazyLoader(spec.loader.name, spec.loader.path)
        return spec


_finder = _Finder()
sys.meta_path.insert(0, _finder)
try:
    from kubernetes_asyncio.client import ApiClient, Configuration
    from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config
finally:
    sys.meta_path.remove(_finder)

__all__ = ["ApiClient", "ConfigException", "Configuration", "load_incluster_config", "load_kube_config"]
