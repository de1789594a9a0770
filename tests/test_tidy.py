"""The house style as a test: every rule holds on this checkout, and every rule can fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tidy.code_rules import CODE_RULES
from tests.tidy.text_rules import TEXT_RULES
from tests.tidy.tree import Rule, Tree

ROOT = Path(__file__).resolve().parent.parent
RULES = {rule.__name__: rule for rule in (*CODE_RULES, *TEXT_RULES)}

TIDY = {
    "market/__init__.py": '"""The rules."""\n',
    "market/money.py": '"""Charges."""\nimport numpy as np\n\nRNG = np.random.default_rng(7)\n',
    "storage/book.py": '"""Remembers."""\nimport sqlalchemy\nfrom market import money\n',
    "actors/cluster.py": '"""The doorway."""\nimport ray\n\nfrom storage import book\n',
    "serve_app/deployment.py": '"""The door."""\nfrom actors import cluster\n',
    "coster/main.py": (
        '"""The command line."""\n'
        "from coster import keys\nfrom serve_app.deployment import gateway\n\n"
        "app.add_typer(keys.app, name='keys')\napp.command()(keys.status)\n\n"
        "@app.command()\ndef up() -> None:\n    print('ready')\n"
    ),
    "coster/keys.py": (
        '"""Keys."""\n\n@app.command("list")\ndef show() -> None:\n    """Lists."""\n'
    ),
    "tests/unit/test_money.py": '"""Laws."""\n\ndef test_adds() -> None:\n    """One and one."""\n',
    "Makefile": "demo: ready\n\trun\n",
    "README.md": "Run `make demo`:\n```\n$ coster up --json\ncoster keys list\n```\n"
    "Then `coster status`. Read [the law](tests/unit/test_money.py) of `market/money.py`.\n",
}
"""The smallest checkout in which every rule holds."""

UNTIDY: list[tuple[str, str, str]] = [
    # rule, the file that breaks it, the text added to it
    ("arrows_point_one_way", "market/money.py", "from storage import book\n"),
    ("arrows_point_one_way", "storage/book.py", "def late():\n    import actors.cluster\n"),
    ("arrows_point_one_way", "market/money.py", "from . import errors\n"),
    ("arrows_point_one_way", "simulator/world/run.py", '"""Lab."""\nimport storage\n'),
    ("giants_have_one_doorway", "actors/router.py", '"""R."""\nimport ray.actor\n'),
    ("giants_have_one_doorway", "actors/router.py", '"""R."""\nfrom mlx_lm import load\n'),
    ("giants_have_one_doorway", "actors/router.py", '"""R."""\nimport sqlite3\n'),
    ("giants_have_one_doorway", "market/money.py", "import stripe\n"),
    ("giants_have_one_doorway", "simulator/world/run.py", '"""W."""\nimport pyarrow as pa\n'),
    ("giants_have_one_doorway", "simulator/world/run.py", '"""Lab."""\nimport scipy.optimize\n'),
    ("market_is_pure", "market/placement/greedy.py", '"""G."""\nfrom scipy import sparse\n'),
    ("market_is_pure", "market/money.py", "import requests\n"),
    ("market_is_pure", "market/money.py", "import time\n"),
    ("market_is_pure", "market/money.py", "from os import environ\n"),
    ("market_is_pure", "market/money.py", "import scipy\n"),
    ("market_is_pure", "market/money.py", "import random\nx = random.random()\n"),
    ("market_is_pure", "market/money.py", "x = np.random.uniform()\n"),
    ("market_is_pure", "market/money.py", "x = np.random.default_rng()\n"),
    ("market_is_pure", "market/money.py", "x = datetime.datetime.now()\n"),
    ("market_is_pure", "market/money.py", "x = open('prices')\n"),
    ("files_and_functions_fit", "market/money.py", "x = 1\n" * 400),
    ("files_and_functions_fit", "market/money.py", "def f():\n" + "    x = 1\n" * 70),
    ("files_and_functions_fit", "market/money.py", f"# {'a' * 99}\n"),
    ("nothing_is_unfinished", "market/money.py", "# TO" + "DO later\n"),
    ("nothing_is_unfinished", "README.md", "FIX" + "ME\n"),
    ("every_module_is_used", "market/lost.py", '"""Nobody calls."""\n'),
    ("init_files_import_nothing", "market/__init__.py", "from market import money\n"),
    ("only_the_command_line_prints", "storage/book.py", "print('saved')\n"),
    ("every_module_says_why", "actors/router.py", "x = 1\n"),
    ("every_test_states_its_law", "tests/unit/test_money.py", "async def test_b():\n    pass\n"),
    ("no_path_of_one_machine", "README.md", "See /ho" + "me/jo/coster.\n"),
    ("no_path_of_one_machine", "storage/book.py", "x = '/wo" + "rk/data'\n"),
    ("no_path_of_one_machine", "storage/book.py", "x = '/tm" + "p/ledger.db'\n"),
    ("documented_commands_exist", "README.md", "`make coffee`\n"),
    ("documented_commands_exist", "README.md", "```\n.venv/bin/coster down\n```\n"),
    ("documented_commands_exist", "README.md", "`coster keys burn`\n"),
    ("documented_files_exist", "README.md", "[gone](docs/gone.md)\n"),
    ("documented_files_exist", "README.md", "`actors/gone.py`\n"),
]


@pytest.fixture(scope="module")
def checkout() -> Tree:
    return Tree(ROOT)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_the_checkout_is_tidy(rule: Rule, checkout: Tree) -> None:
    """No rule of the house is broken in this checkout."""
    assert list(rule(checkout)) == []


def test_the_checkout_was_read(checkout: Tree) -> None:
    """The rules looked at every room, the tests, the prose and the settings."""
    assert {module.room for module in checkout.rooms} >= {"market", "storage", "coster"}
    assert "tests/test_tidy.py" in {module.path for module in checkout.tests}
    assert {"README.md", "docs/architecture.md"} <= checkout.prose.keys()
    assert {"Makefile", "pyproject.toml", ".ci/run"} <= checkout.settings.keys()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_tidy_tree_breaks_no_rule(rule: Rule, tmp_path: Path) -> None:
    """A small checkout that follows the style is left alone."""
    _write(tmp_path, TIDY)

    assert list(rule(Tree(tmp_path))) == []


@pytest.mark.parametrize(("name", "path", "addition"), UNTIDY)
def test_each_rule_names_the_file_that_breaks_it(
    name: str, path: str, addition: str, tmp_path: Path
) -> None:
    """Adding one untidy thing makes exactly its rule name exactly its file."""
    _write(tmp_path, TIDY | {path: TIDY.get(path, "") + addition})

    broken = list(RULES[name](Tree(tmp_path)))

    assert broken
    assert all(sentence.startswith(path) for sentence in broken)


def test_every_rule_is_shown_to_fail() -> None:
    """No rule is kept that has not been seen red."""
    assert {name for name, _, _ in UNTIDY} == set(RULES)


def _write(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
