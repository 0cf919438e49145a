"""Names: exported as the contract says, each module's `__all__` exact, docstrings that say what matters."""

from __future__ import annotations

import ast
import importlib
import inspect
from typing import TypeVar

import pytest

import aionet

from .modules import IMPORTABLE, MODULES, tree_of

CONTRACT = [
    "AddressLike",
    "AionetError",
    "AsyncTcpConnectionServer",
    "AsyncTcpSocket",
    "AsyncUnixConnectionServer",
    "AsyncUnixSocket",
    "ConnectError",
    "ConnectionLimits",
    "ConnectionLostError",
    "ConnectionSpawner",
    "DeliveryError",
    "DrainReport",
    "IncompleteReadError",
    "IpAddress",
    "KeepAlive",
    "LimitExceededError",
    "NetworkToolkit",
    "ProxyProtocolError",
    "ResolveError",
    "SocketAddress",
    "SocketBusyError",
    "SocketClosedError",
    "TcpInfo",
    "TcpOptions",
    "TlsError",
    "TlsTruncatedError",
    "UnixAddress",
    "UnixOptions",
    "implementation",
    "serve",
]

WITH_ALL = [
    module
    for module in IMPORTABLE
    if not module.endswith("__main__")
    and (MODULES[module].name != "__init__.py" or len(tree_of(module).body) > 1)
]


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_is_importable(name):
    assert hasattr(aionet, name)


def test_the_package_only_re_exports():
    for node in tree_of("aionet").body[1:]:
        assert isinstance(node, ast.ImportFrom) or ast.unparse(node).startswith("__all__"), ast.unparse(node)


def _names_in_all(module):
    return importlib.import_module(module).__all__


@pytest.mark.parametrize("module", WITH_ALL)
def test_all_is_there_sorted_and_true(module):
    names = list(_names_in_all(module))
    assert names == sorted(names, key=_as_isort_does)
    assert len(names) == len(set(names))
    for name in names:
        assert hasattr(importlib.import_module(module), name)


def _as_isort_does(name):
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("module", [module for module in WITH_ALL if MODULES[module].name != "__init__.py"])
def test_all_is_complete(module):
    defined = set()
    for node in tree_of(module).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    found = importlib.import_module(module)
    type_variables = {name for name in defined if isinstance(getattr(found, name, None), TypeVar)}
    public = {name for name in defined - type_variables if not name.startswith("_")}
    assert public - set(_names_in_all(module)) == set()
    assert set(_names_in_all(module)) - public - {"__version__"} == set(), "exported, but defined elsewhere"


PUBLIC_CLASSES = [
    value
    for name, value in sorted(vars(aionet).items())
    if inspect.isclass(value) and not name.startswith("_")
]
PUBLIC_COROUTINES = {
    f"{owner.__name__}.{name}": member
    for owner in PUBLIC_CLASSES
    for name, member in inspect.getmembers(owner, inspect.iscoroutinefunction)
    if not name.startswith("_")
} | {
    name: value
    for name, value in vars(aionet).items()
    if inspect.iscoroutinefunction(value) and not name.startswith("_")
}


@pytest.mark.parametrize("name", PUBLIC_COROUTINES)
def test_every_public_coroutine_says_what_cancelling_does(name):
    assert "cancel safety" in (inspect.getdoc(PUBLIC_COROUTINES[name]) or "").lower()


@pytest.mark.parametrize("owner", PUBLIC_CLASSES, ids=lambda owner: owner.__name__)
def test_everything_public_is_documented(owner):
    missing = [
        name
        for name, member in inspect.getmembers(owner)
        if not name.startswith("_")
        and (inspect.isroutine(member) or isinstance(member, property))
        and (getattr(member, "__module__", "aionet") or "").startswith("aionet")
        and not inspect.getdoc(member)
    ]
    assert missing == []
    assert inspect.getdoc(owner)


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("aionet.bench")])
def test_what_is_said_cannot_fail(module):
    """A module logs through `announcing.Log`, and prints by `announcing.say` or ``print_out``."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            pytest.fail(f"line {node.lineno}: print() raises where nothing can be written")
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_log":
            assert ast.unparse(node.value).startswith("Log("), f"line {node.lineno}: this logger raises"


COMPLETE_LOGS = {
    "aionet.observing.access_log",  # a line for each connection is its contract
    "aionet.tls.server",  # of certificates
    "aionet.workers.hanging",
    "aionet.workers.supervisor",
    "aionet.workers.worker",
}


def test_lines_that_peers_cause_are_limited():
    found = {
        module
        for module in MODULES
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "Log"
        and any(keyword.arg == "complete" for keyword in node.keywords)
    }
    assert found == COMPLETE_LOGS
