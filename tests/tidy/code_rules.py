"""The house style for code: which room a line belongs to, what it may touch, how big it is."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator

from tests.tidy.tree import ROOMS, Rule, Tree

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
LINE_CHARACTERS_MAX = 100

ARROWS: dict[str, set[str]] = {
    "market": set(),
    "storage": {"market"},
    "actors": {"market", "storage"},
    "serve_app": {"market", "storage", "actors"},
    "simulator": {"market"},
    "coster": {"market", "storage", "actors", "serve_app", "simulator"},
}
"""Which rooms a room may import, itself aside."""

DOORWAYS: dict[str, tuple[str, ...]] = {
    "ray": ("actors/cluster.py", "actors/ray_tasks.py", "serve_app/deployment.py"),
    "mlx": ("actors/engines/mlx*", "actors/demo/*"),
    "mlx_lm": ("actors/engines/mlx*", "actors/demo/*"),
    "stripe": ("actors/stripe/processor.py", "actors/fake_stripe/validation.py"),
    "sqlalchemy": ("storage/*",),
    "sqlmodel": ("storage/*",),
    "alembic": ("storage/*",),
    "sqlite3": ("storage/*",),
    "aiosqlite": ("storage/*",),
    "asyncpg": ("storage/*",),
    "fastapi": ("serve_app/*",),
    "starlette": ("serve_app/*",),
    "typer": ("coster/*",),
    "prometheus_client": ("serve_app/exposition.py",),
    "pyarrow": ("simulator/results/parquet.py",),
    "scipy": ("market/placement/exact.py", "simulator/limits/numerics.py"),
}
"""The only files that may import each giant."""

MARKET_GUESTS = {"numpy": ("market/*",), "scipy": ("market/placement/exact.py",)}
MARKET_BANNED = {
    *("asyncio", "io", "logging", "multiprocessing", "os", "pathlib", "secrets", "shutil"),
    *("socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid"),
}
"""Clock, environment, files, threads, the network: the rules take such things as input."""
MARKET_BANNED_CALLS = {"open", "input", "datetime.now", "datetime.utcnow", "date.today"}
SEEDED = {"Random", "default_rng", "Generator", "PCG64", "SeedSequence"}

ENTRY_POINTS = ("coster/main.py", "coster/compose.py", "storage/migrations/*", "*/__main__.py")
PRAGMA = re.compile(r"\s*# (?:type: ignore|noqa)\b.*$")
"""Addressed to the tools, not to the reader: it does not count towards a line's width."""
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def arrows_point_one_way(tree: Tree) -> Iterator[str]:
    """A room imports only the rooms upstream of it, always by absolute name."""
    for module in tree.rooms:
        allowed = ARROWS[module.room] | {module.room}
        for line, name in module.imports:
            top = name.split(".", 1)[0]
            if not top:
                yield f"{module.path}:{line} imports relatively"
            elif top in ARROWS and top not in allowed:
                yield f"{module.path}:{line} {module.room} may not import {name}"


def giants_have_one_doorway(tree: Tree) -> Iterator[str]:
    """Ray, MLX, Stripe, SQL, scipy and the frameworks are imported only where they live."""
    for module in tree.rooms:
        for line, name in module.imports:
            doors = DOORWAYS.get(name.split(".", 1)[0])
            if doors is not None and not module.within(doors):
                yield f"{module.path}:{line} imports {name}; its doorway is {' or '.join(doors)}"


def market_is_pure(tree: Tree) -> Iterator[str]:
    """The rules import the standard library and numpy, and read nothing from outside."""
    for module in tree.rooms:
        if module.room != "market":
            continue
        for line, name in module.imports:
            top = name.split(".", 1)[0]
            known = top in sys.stdlib_module_names or top in ROOMS
            guest = module.within(MARKET_GUESTS.get(top, ()))
            if top in MARKET_BANNED or not (known or guest):
                yield f"{module.path}:{line} market may not import {name}"
        for line, name, call in module.calls:
            if _reads_the_world(name, call):
                yield f"{module.path}:{line} market may not call {name}"


def _reads_the_world(name: str, call: ast.Call) -> bool:
    parts = name.split(".")
    if name in MARKET_BANNED_CALLS or ".".join(parts[-2:]) in MARKET_BANNED_CALLS:
        return True
    seeded = parts[-1] in SEEDED and bool(call.args or call.keywords)
    return parts[0] in {"random", "np", "numpy"} and "random" in parts[:-1] and not seeded


def files_and_functions_fit(tree: Tree) -> Iterator[str]:
    """A file fits a sitting, a function a screen, a line the page."""
    for module in tree.python:
        lines = module.text.splitlines()
        if len(lines) > FILE_LINES_MAX:
            yield f"{module.path} has {len(lines)} lines, more than {FILE_LINES_MAX}"
        for number, line in enumerate(lines, 1):
            width = len(PRAGMA.sub("", line))
            if width > LINE_CHARACTERS_MAX:
                yield f"{module.path}:{number} is {width} characters wide"
        for node in module.functions:
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > FUNCTION_LINES_MAX:
                yield f"{module.path}:{node.lineno} {node.name} has {size} lines"


def nothing_is_unfinished(tree: Tree) -> Iterator[str]:
    """No note to a later self: finish it, or say in the changelog what is missing."""
    for path, text in tree.every_text.items():
        for number, line in enumerate(text.splitlines(), 1):
            if UNFINISHED.search(line):
                yield f"{path}:{number} is unfinished: {line.strip()[:60]}"


def every_module_is_used(tree: Tree) -> Iterator[str]:
    """Each module is imported by another, named by a string or a setting, or is run itself.

    A second implementation of a port may have only tests as users: `market/ports.py` names it.
    """
    imported = {name for module in tree.rooms for _, name in module.imports}
    ports = "\n".join(module.text for module in tree.rooms if module.path == "market/ports.py")
    settings = "\n".join([*tree.settings.values(), ports])
    strings = "\n".join(text for m in tree.rooms for _, text in m.strings if "\n" not in text)
    for module in tree.rooms:
        runs_itself = "\nif __name__ ==" in module.text or module.within(ENTRY_POINTS)
        if runs_itself or module.path.endswith("__init__.py") or module.dotted in imported:
            continue
        name = rf"(?<![\w.]){re.escape(module.dotted)}(?![\w.])"
        if not re.search(name, settings) and not re.search(name, strings):
            yield f"{module.path} is imported by nobody"


def init_files_import_nothing(tree: Tree) -> Iterator[str]:
    """A package's `__init__` is a reading guide; importing it must cost nothing."""
    for module in tree.rooms:
        if module.path.endswith("__init__.py"):
            for line, name in module.imports:
                yield f"{module.path}:{line} imports {name}"


def only_the_command_line_prints(tree: Tree) -> Iterator[str]:
    """Standard output belongs to the command line; the other rooms log."""
    for module in tree.rooms:
        for line, name, _ in module.calls:
            if name == "print" and module.room != "coster":
                yield f"{module.path}:{line} prints"


def every_module_says_why(tree: Tree) -> Iterator[str]:
    """Each file that holds anything opens with a paragraph on why it exists."""
    for module in tree.python:
        if module.text.strip() and not ast.get_docstring(module.ast):
            yield f"{module.path} does not say why it exists"


def every_test_states_its_law(tree: Tree) -> Iterator[str]:
    """Each test has a docstring that states the behaviour in a sentence."""
    for module in tree.tests:
        for node in module.functions:
            if node.name.startswith("test_") and not ast.get_docstring(node):
                yield f"{module.path}:{node.lineno} {node.name} does not state its law"


CODE_RULES: tuple[Rule, ...] = (
    arrows_point_one_way,
    giants_have_one_doorway,
    market_is_pure,
    files_and_functions_fit,
    nothing_is_unfinished,
    every_module_is_used,
    init_files_import_nothing,
    only_the_command_line_prints,
    every_module_says_why,
    every_test_states_its_law,
)
