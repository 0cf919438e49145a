"""What the package's modules import and define, read from their source."""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import aionet

__all__ = ["IMPORTABLE", "MODULES", "ROOT", "imports_of", "tree_of"]

ROOT = Path(aionet.__file__).parent


def _name_of(path: Path) -> str:
    parts = ("aionet", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
"""Dotted name -> file."""


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def _needs_the_compiled_engine(module: str) -> bool:
    """Whether it imports the compiled module as soon as it is imported itself."""
    imports = (node for node in tree_of(module).body if isinstance(node, ast.ImportFrom))
    return any((node.module or "").endswith("_compiled") for node in imports)


_has_compiled = importlib.util.find_spec("aionet.native._compiled") is not None

IMPORTABLE = [module for module in MODULES if _has_compiled or not _needs_the_compiled_engine(module)]
"""All modules; where aionet was installed without a compiler, all but those of the compiled engine."""


def _statements(nodes: list[ast.stmt], inside_functions: bool) -> Iterator[ast.stmt]:
    """All statements that run, those under ``if TYPE_CHECKING`` left out."""
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from _statements(node.orelse, inside_functions)
            continue
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not inside_functions:
            continue
        for field in ("body", "orelse", "finalbody", "handlers"):
            yield from _statements(getattr(node, field, []), inside_functions)


def imports_of(module: str, *, inside_functions: bool = True) -> set[str]:
    """Return the modules of aionet that `module` imports when it runs."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in _statements(tree_of(module).body, inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                base = f"{above}.{base}".rstrip(".")
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                target = submodule if submodule in MODULES else base
                if target in MODULES:
                    found.add(target)
    return found - {module}
