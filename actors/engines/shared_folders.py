"""Model folders as many engines of one process read them: once.

A process may stand up a hundred simulated Macs that all speak one folder's tokens; reading it
for each of them, or keeping a tokenizer each, would take seconds and gigabytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from actors.engines.model_folder import FolderFacts, read_folder
from actors.engines.text import TokenizerVocabulary
from market.catalogue import ModelCard

FOLDERS_MAX = 32
"""Folders kept in mind at once; the one used longest ago is forgotten."""


def facts_of(folder: Path, card: ModelCard | None = None) -> FolderFacts:
    """What the folder says, read again only when one of its files has changed.

    With a card: the folder's tokens, in the name of a model of the catalogue that has no folder
    of its own, with that model's context and quantisation. Raises InvalidRequest as
    `read_folder` does.
    """
    facts = _facts(folder, _stamp(folder))
    if card is None:
        return facts
    return replace(
        facts,
        context_tokens=card.context_tokens,
        quantization=card.quantization,
        digest=hashlib.sha256(f"{card.id}|{facts.digest}".encode()).hexdigest(),
    )


def vocabulary_of(tokenizer_path: Path) -> TokenizerVocabulary:
    """The vocabulary of a tokenizer.json, shared by all who ask for it."""
    status = tokenizer_path.stat()
    return _vocabulary(tokenizer_path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=FOLDERS_MAX)
def _facts(folder: Path, _stamp: object) -> FolderFacts:
    return read_folder(folder)


@lru_cache(maxsize=FOLDERS_MAX)
def _vocabulary(tokenizer_path: Path, _stamp: object) -> TokenizerVocabulary:
    return TokenizerVocabulary(tokenizer_path)


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, times and sizes of its files: equal as long as nothing was written."""
    if not folder.is_dir():
        return ()
    found = [(path, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return tuple((path.name, status.st_mtime_ns, status.st_size) for path, status in found)
