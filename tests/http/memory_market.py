"""A whole small market in memory behind the door's ports: exact, scriptable, no actors.

The tokenizer is one token per character, so counts in tests can be worked out by hand.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from market.catalogue import DEMO_MODEL, Catalogue
from market.types import (
    GatewayId,
)
from serve_app.app import GatewayApp, create_app
from serve_app.limits import Limits
from serve_app.ports import GatewayPorts
from serve_app.sealed import Sealer
from serve_app.served_model import ServedModel, ServedModels
from tests.http.memory_accountant import ADA, MAC_OWNER, TEN_DOLLARS, Account, Accountant, hash_key
from tests.http.memory_fleet import Fleet, Mac
from tests.http.memory_payments import Payments

TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'refuse me' %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_tokenizer(path: Path) -> Path:
    """A tokenizer.json with one token per printable ASCII character."""
    characters = [chr(code) for code in range(32, 127)]
    vocab = {"<unk>": 0, **{character: at + 1 for at, character in enumerate(characters)}}
    path.write_text(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"Regex": ""},
                    "behavior": "Isolated",
                    "invert": False,
                },
                "post_processor": None,
                "decoder": {"type": "Fuse"},
                "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
            }
        )
    )
    return path


class Clock:
    """The real clock, running `speed` times as fast for deadlines."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic() * self._speed


class Readiness:
    """Says what it is told to."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def problems(self) -> list[str]:
        return self.said


class Market:
    """The app and everything behind it."""

    KEY = "sk-test-ada"
    MANAGEMENT = "sk-test-ada-management"

    def __init__(self, folder: Path, limits: Limits | None = None, *macs: Mac) -> None:
        self.catalogue = Catalogue()
        self.accountant = Accountant(self.catalogue)
        self.fleet = Fleet(*macs)
        self.readiness = Readiness()
        self.funded_nano = TEN_DOLLARS
        model = ServedModel(
            DEMO_MODEL,
            write_tokenizer(folder / "tokenizer.json"),
            chat_template=TEMPLATE,
            context_tokens=1024,
        )
        self.accountant.add_key(self.KEY, ADA, "inference", "billing:read")
        self.accountant.add_key(self.MANAGEMENT, ADA, "keys", "billing:read")
        self.ports = GatewayPorts(
            gateway=GatewayId("gw_test"),
            accountant=self.accountant,  # type: ignore[arg-type]
            payments=Payments(),
            router=self.fleet,
            providers=self.fleet,
            models=ServedModels([model]),
            catalogue=self.catalogue,
            clock=Clock(),
            readiness=self.readiness,
            hash_key=hash_key,
            sealer=Sealer(bytes(32)),
        )
        self.app: GatewayApp = create_app(self.ports, limits)

    def rebuild(self, limits: Limits | None = None) -> None:
        """The app anew, over ports that were replaced."""
        self.app = create_app(self.ports, limits)

    @property
    def ada(self) -> Account:
        return self.accountant.accounts[ADA]

    def fund(self, nano: int) -> None:
        """Let Ada start with this much instead of ten dollars."""
        self.funded_nano = self.ada.credit_nano = nano

    def nothing_is_left(self) -> bool:
        """Books closed: no hold, no slot, and not a nano-USD lost."""
        spent = self.funded_nano - self.ada.credit_nano
        return (
            self.ada.held_nano == 0
            and all(mac.running == 0 for mac in self.fleet.macs)
            and len(self.fleet.outcomes) == self.fleet.grants
            and spent == self.accountant.accounts[MAC_OWNER].earnings_nano
        )
