"""A checkout as the house rules see it: sources parsed once, prose and settings as text.

Nothing of ours is imported, so the rules are quick and an import cannot fool them.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

ROOMS = ("market", "storage", "actors", "serve_app", "simulator", "coster")
SKIPPED_FOLDERS = {"__pycache__", ".venv", ".git", "dist", "build", "node_modules"}


@dataclass(frozen=True)
class Module:
    """One Python file; `path` is relative to the checkout and written with slashes."""

    path: str
    text: str

    @cached_property
    def room(self) -> str:
        return self.path.split("/", 1)[0]

    @cached_property
    def dotted(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def ast(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.ast))

    @cached_property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [n for n in self.nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]

    @cached_property
    def calls(self) -> list[tuple[int, str, ast.Call]]:
        """Every call as (line, what is called, the call)."""
        return [(n.lineno, ast.unparse(n.func), n) for n in self.nodes if isinstance(n, ast.Call)]

    @cached_property
    def strings(self) -> list[tuple[int, str]]:
        """Every string constant, docstrings and the parts of f-strings included."""
        return [
            (n.lineno, n.value)
            for n in self.nodes
            if isinstance(n, ast.Constant) and isinstance(n.value, str)
        ]

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """Every import at any depth as (line, dotted name); `from a import b` gives both."""
        found: list[tuple[int, str]] = []
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                found.append((node.lineno, base))
                found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        return found

    def within(self, patterns: tuple[str, ...]) -> bool:
        return any(fnmatch(self.path, pattern) for pattern in patterns)


@dataclass(frozen=True)
class Tree:
    """The files below `root`, by kind."""

    root: Path

    @cached_property
    def rooms(self) -> list[Module]:
        return self._modules(ROOMS)

    @cached_property
    def tests(self) -> list[Module]:
        return self._modules(("tests",))

    @cached_property
    def python(self) -> list[Module]:
        return self.rooms + self.tests + self._modules(("benchmarks",))

    @cached_property
    def prose(self) -> dict[str, str]:
        return self._texts("*.md", "docs/**/*.md")

    @cached_property
    def settings(self) -> dict[str, str]:
        return self._texts("Makefile", "*.toml", "*.yaml", ".ci/*", "serve_app/*.yaml")

    @cached_property
    def every_text(self) -> dict[str, str]:
        return {module.path: module.text for module in self.python} | self.prose | self.settings

    def _modules(self, folders: tuple[str, ...]) -> list[Module]:
        texts = self._texts(*(f"{folder}/**/*.py" for folder in folders))
        return [Module(path, text) for path, text in texts.items()]

    def _texts(self, *patterns: str) -> dict[str, str]:
        found = {path for pattern in patterns for path in self.root.glob(pattern)}
        return {
            path.relative_to(self.root).as_posix(): path.read_text("utf-8")
            for path in sorted(found)
            if path.is_file() and not SKIPPED_FOLDERS & set(path.relative_to(self.root).parts)
        }


Rule = Callable[[Tree], Iterator[str]]
"""A law of the house: sentences about what breaks it, none when the tree is tidy."""
