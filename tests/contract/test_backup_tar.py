"""Books and secrets in one file: what travels, and what is no backup of ours."""

from __future__ import annotations

import errno
import os
import tarfile
from pathlib import Path

import pytest

from storage.backup import backup
from storage.database import LEDGER_FILE, StorageError
from storage.restore import restore
from tests.contract.test_backup import NOW_NS, seen, trade


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A stopped market's ledger with a request."""
    await trade(tmp_path / "data", "req_1")
    return tmp_path / "data"


async def test_secrets_travel_with_the_books(data: Path, tmp_path: Path) -> None:
    """On a new machine the same API key works; without its secrets that is warned of."""
    with_secrets = backup(data, now_ns=NOW_NS, secrets=True)
    without = backup(data, now_ns=NOW_NS)
    assert with_secrets.secrets == ("pepper",)
    assert with_secrets.path.stat().st_mode & 0o777 == 0o600

    bare, whole = tmp_path / "bare", tmp_path / "whole"
    assert not (await restore(bare, without.path, now_ns=NOW_NS)).has_pepper
    done = await restore(whole, with_secrets.path, now_ns=NOW_NS)

    assert (done.has_pepper, done.secrets, done.lost, done.aside) == (True, ("pepper",), [], None)
    pepper = whole / "secrets" / "pepper"
    assert pepper.read_bytes() == (data / "secrets" / "pepper").read_bytes()
    assert pepper.stat().st_mode & 0o777 == 0o600


async def test_a_tar_that_was_cut_short_changes_nothing(data: Path, tmp_path: Path) -> None:
    """It is said of the backup, wherever the cut is."""
    whole = backup(data, now_ns=NOW_NS, out=tmp_path / "all.tar", secrets=True).path.read_bytes()
    before = seen(data)
    cut = tmp_path / "cut.tar"
    for size in (513, len(whole) // 3, len(whole) // 2):
        cut.write_bytes(whole[:size])
        with pytest.raises(StorageError, match=rf"The backup {cut} cannot be restored"):
            await restore(data, cut, now_ns=NOW_NS)
    assert seen(data) == before


async def test_a_restore_on_a_full_disk_says_to_make_room(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even the lock cannot be written there; the next try is not locked out."""
    made = backup(data, now_ns=NOW_NS)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as without_room:
        without_room.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match="Make room on its disk"):
            await restore(data, made.path, now_ns=NOW_NS)
    assert (await restore(data, made.path, now_ns=NOW_NS)).report.ok


@pytest.mark.parametrize("name", ["../evil", "secrets/../../evil", "/evil", "other"])
async def test_a_tar_of_somebody_else_is_refused(data: Path, tmp_path: Path, name: str) -> None:
    """Nothing is unpacked outside, and nothing unknown inside."""
    source = tmp_path / "evil.tar"
    with tarfile.open(source, "w") as tar:
        tar.add(data / LEDGER_FILE, LEDGER_FILE)
        info = tarfile.TarInfo(name)
        tar.addfile(info)

    with pytest.raises(StorageError, match="no backup of coster's"):
        await restore(data, source, now_ns=NOW_NS)
    assert not (tmp_path / "evil").exists()
