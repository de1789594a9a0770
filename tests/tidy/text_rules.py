"""The house style for text: what the docs name exists, and nothing names one machine."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.tidy.tree import ROOMS, Module, Rule, Tree

MACHINE_PATH = re.compile(r"(?:^|[\s\"'`=:(])/(?:work|root|home|Users)/")
TEMPORARY_PATH = re.compile(r"^/(?:private/)?(?:var/)?tmp(?:/|$)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"^(?:\$ )?(?:[\w./-]*/)?(coster|make) ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?")
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
FILE = re.compile(
    rf"^(?:(?:{'|'.join(ROOMS)})/[\w/-]+\.\w+|(?:tests|docs|benchmarks|\.ci)/[\w./-]+)$"
)


def no_path_of_one_machine(tree: Tree) -> Iterator[str]:
    """Everything works on any machine: no home, no workspace, no fixed temporary folder."""
    texts = {**tree.prose, **tree.settings, **{m.path: m.text for m in tree.rooms}}
    for path, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line):
                yield f"{path}:{number} names a path of one machine"
    for module in tree.rooms:
        for number, string in module.strings:
            if TEMPORARY_PATH.search(string):
                yield f"{module.path}:{number} names a fixed temporary folder"


def documented_commands_exist(tree: Tree) -> Iterator[str]:
    """Each `make …` and `coster …` that the docs show can be typed."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", tree.settings.get("Makefile", ""), re.MULTILINE))
    commands, groups = _command_line(tree)
    for path, text in tree.prose.items():
        for tool, verb, second in _shown_commands(text):
            if tool == "make" and verb not in targets:
                yield f"{path} shows `make {verb}`, which is no target"
            elif tool == "coster" and commands and verb not in commands | groups.keys():
                yield f"{path} shows `coster {verb}`, which is no command"
            elif tool == "coster" and second and second not in groups.get(verb, {second}):
                yield f"{path} shows `coster {verb} {second}`, which is no command"


def _shown_commands(text: str) -> Iterator[tuple[str, str, str]]:
    blocks = FENCE.findall(text)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    for line in lines + INLINE.findall(FENCE.sub("", text)):
        match = COMMAND.match(line)
        if match:
            yield match[1], match[2], match[3] or ""


def _command_line(tree: Tree) -> tuple[set[str], dict[str, set[str]]]:
    """Plain commands, and nouns with their verbs, read off the Typer declarations."""
    verbs: dict[str, set[str]] = {}
    nouns: dict[str, str] = {}
    for module in tree.rooms:
        if module.room != "coster":
            continue
        for app, verb in _declared_verbs(module):
            verbs.setdefault(f"{module.dotted}.{app}", set()).add(verb)
        for _, name, call in module.calls:
            if name.endswith(".add_typer"):
                noun = next(
                    (ast.literal_eval(k.value) for k in call.keywords if k.arg == "name"), ""
                )
                nouns[noun] = ast.unparse(call.args[0])
    groups = {
        noun: {verb for app, found in verbs.items() if app.endswith(f".{owner}") for verb in found}
        for noun, owner in nouns.items()
    }
    grouped = tuple(f".{owner}" for owner in nouns.values())
    plain = {verb for app, found in verbs.items() if not app.endswith(grouped) for verb in found}
    return plain, groups


def _declared_verbs(module: Module) -> Iterator[tuple[str, str]]:
    """(app variable, verb) pairs.

    Read from `@app.command("verb")`, `@app.command()` over `def verb`, `app.command()(verb)`.
    """
    for _, name, call in module.calls:
        app, _, attribute = name.rpartition(".")
        if attribute == "command" and call.args:
            yield app, str(ast.literal_eval(call.args[0]))
        elif attribute == "command()":
            yield app, ast.unparse(call.args[0]).rpartition(".")[2].replace("_", "-")
    for node in module.functions:
        for decorator in node.decorator_list:
            app, _, attribute = ast.unparse(getattr(decorator, "func", decorator)).rpartition(".")
            if attribute == "command" and not getattr(decorator, "args", ()):
                yield app, node.name.replace("_", "-")


def documented_files_exist(tree: Tree) -> Iterator[str]:
    """Each link and each file that the docs name is there."""
    for path, text in tree.prose.items():
        folder = (tree.root / path).parent
        for link in LINK.findall(FENCE.sub("", text)):
            if not (folder / link).exists():
                yield f"{path} links to {link}, which is not there"
        for name in INLINE.findall(FENCE.sub("", text)):
            if FILE.match(name) and not (tree.root / name).exists():
                yield f"{path} names {name}, which is not there"


TEXT_RULES: tuple[Rule, ...] = (
    no_path_of_one_machine,
    documented_commands_exist,
    documented_files_exist,
)
