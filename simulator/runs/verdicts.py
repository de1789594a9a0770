"""What verifying a folder says of it: what differs, why, and what could not be held against it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from market.errors import InvalidRequest
from simulator.results import folders

VERSIONS: Final = ("coster", "pyarrow", "numpy")
NAMES_MAX: Final = 5
"""Names that are told of those under which two summaries differ."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One run that was repeated, or the whole of a comparison that was made anew of its runs.

    `differs` names what is not the same, with the reason; `notes` what could not be looked at.
    """

    folder: Path
    differs: tuple[str, ...]
    notes: tuple[str, ...] = ()
    whole: bool = False

    @property
    def same(self) -> bool:
        return not self.differs

    def as_json(self) -> dict[str, object]:
        return {
            "folder": str(self.folder),
            "same": self.same,
            "differs": list(self.differs),
            "notes": list(self.notes),
        }


@dataclass(slots=True)
class Findings:
    """What is found of one folder, file by file; at most one thing of each file."""

    folder: Path
    manifest: Mapping[str, Any]
    found: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def written(self, name: str) -> bool:
        """Whether a file is there and what was written, as far as its digest is known."""
        digest = self.manifest.get("files", {}).get(name)
        if not (self.folder / name).is_file():
            self.found[name] = f"{name} is missing"
        elif digest is None:
            self.notes.append(f"{name} has no digest in the manifest: an older coster wrote it")
        elif folders.digest_of(self.folder / name) != digest:
            self.found[name] = f"{name} is not what was written: it was changed afterwards"
        return name not in self.found

    def made_anew(self, name: str, make: Callable[[], str], made_by: Mapping[str, Any]) -> None:
        """Hold a text file against what it is when it is made once more.

        What was edited can have any shape, and making something of it fail in any way: that it
        failed is what is found.
        """
        try:
            text = make()
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - told as what is found
            said = f"{type(error).__name__}: {error}"[:200]
            self.found[name] = f"{name} cannot be made anew, for something was edited ({said})"
            return
        if (self.folder / name).read_bytes() != text.encode():
            where = self.where(json.loads(text)) if name == folders.SUMMARY else ""
            self.found[name] = f"{name} differs{where}{otherwise(self.manifest, made_by)}"

    def where(self, again: Any) -> str:
        """In which of its numbers the summary differs."""
        try:
            keys = _unlike(folders.read_json(self.folder / folders.SUMMARY), again)
        except InvalidRequest:
            return ": it is no JSON"
        return f" in {', '.join(keys[:NAMES_MAX]) or 'nothing but its spelling'}"

    def verdict(self, *, before: tuple[str, ...] = (), whole: bool = False) -> Verdict:
        """All of it, after what was found before."""
        return Verdict(self.folder, (*before, *self.found.values()), tuple(self.notes), whole)


def otherwise(manifest: Mapping[str, Any], made_by: Mapping[str, Any]) -> str:
    """What may be the reason: other versions or other code than were there at first."""
    versions = [
        f"{each} {manifest['versions'].get(each)}, here {made_by['versions'].get(each)}"
        for each in VERSIONS
        if manifest["versions"].get(each) != made_by["versions"].get(each)
    ]
    if manifest.get("code") != made_by["code"]:
        versions.append("other code of market/ or simulator/")
    elif manifest.get("git") != made_by["git"]:
        versions.append("another revision of the code")
    return f" (it was run with {'; '.join(versions)})" if versions else ""


def _unlike(one: Any, other: Any, before: str = "") -> list[str]:
    """The dotted names of what is not equal; places in lists count from 0."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        one, other = (dict(enumerate(each)) for each in (one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        found = []
        for key in sorted(one.keys() | other.keys()):
            found += _unlike(one.get(key), other.get(key), f"{before}.{key}" if before else key)
        return found
    return [] if json.dumps(one) == json.dumps(other) else [before]
