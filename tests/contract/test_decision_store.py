"""What the decision store promises."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from market.routing.log import (
    DecisionRecord,
    FleetSnapshot,
    Intent,
    OutcomeRecord,
    ScoredMac,
    explain,
)
from market.types import GatewayId, MachineId, ModelId, ProviderId, RequestId
from storage.decision_store import SCHEMA_VERSION, DecisionStore, StoreUnusable, check

MAC = MachineId("mac_a")
REQUEST = RequestId("req_1")


def decision(attempt: int = 1, at_s: float = 100.0, name: str = "req_1") -> DecisionRecord:
    return DecisionRecord(
        request_id=RequestId(name),
        attempt=attempt,
        model=ModelId("coster/demo"),
        gateway=GatewayId("gw_1"),
        decided_s=at_s,
        waited_s=0.25,
        fleet_version=7,
        macs=3,
        counts=(("draining", 2),),
        chosen=MAC,
        provider=ProviderId("prv_a"),
        predicted_ttft_ms=12.5,
        words="1 of 3 Macs can take this now: 2 draining",
        top=(ScoredMac(MAC, ProviderId("prv_a"), 40.0, (("prefill", 10.0), ("decode", 30.0))),),
    )


def ended(attempt: int = 1, at_s: float = 101.0, result: str = "ok") -> OutcomeRecord:
    return OutcomeRecord(
        REQUEST, attempt, MAC, ProviderId("prv_a"), result, True, 10, 0, 12.0, 99.0, at_s
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DecisionStore]:
    made = DecisionStore(tmp_path / "data" / "router.db")
    await made.open()
    yield made
    await made.close()


async def test_what_is_stored_comes_back_unchanged(store: DecisionStore) -> None:
    """Records survive the round trip whole, in order of attempt."""
    records = [decision(2, 102.0), ended(1), decision(1), ended(2, 103.0)]
    await store.append(records)
    assert await store.records_of(REQUEST) == [records[2], records[1], records[0], records[3]]
    assert await store.records_of(RequestId("req_other")) == []


async def test_storing_an_attempt_again_replaces_it(store: DecisionStore) -> None:
    """A batch that is stored twice is stored once; the newest word counts."""
    await store.append([decision(), ended(result="failed")])
    await store.append([decision(), ended(result="ok")])
    assert await store.records_of(REQUEST) == [decision(), ended(result="ok")]


async def test_a_drain_is_kept_once_a_mac_and_a_pin_once_a_model(store: DecisionStore) -> None:
    """A newer intent replaces the same older one; dropping one that is not there is no error."""
    one, other = ModelId("m/one"), ModelId("m/other")
    await store.put_intent(Intent(MAC, "drain", "old", 1.0))
    await store.put_intent(Intent(MAC, "drain", "new", 2.0))
    await store.put_intent(Intent(MAC, "pin", "sold", 3.0, one))
    await store.put_intent(Intent(MAC, "pin", "sold", 4.0, other))
    await store.put_intent(Intent(MAC, "pin", "sold again", 5.0, other))
    await store.drop_pin(MAC, one)
    await store.drop_pin(MAC, one)
    assert await store.intents() == [
        Intent(MAC, "drain", "new", 2.0),
        Intent(MAC, "pin", "sold again", 5.0, other),
    ]
    await store.drop_drain(MAC)
    await store.drop_drain(MAC)
    assert [intent.kind for intent in await store.intents()] == ["pin"]


async def test_what_a_replay_needs_is_kept_apart_and_pruned_with_the_rest(
    store: DecisionStore,
) -> None:
    """A packed decision is found by request and attempt, and goes when it is old."""
    await store.append([replace(decision(1, 100.0), packed=b"one"), decision(2, 200.0)])
    assert await store.packed_of(REQUEST, 1) == b"one"
    assert await store.packed_of(REQUEST, 2) is None
    assert await store.records_of(REQUEST) == [decision(1, 100.0), decision(2, 200.0)]
    assert await store.prune(150.0) == 2
    assert await store.packed_of(REQUEST, 1) is None


async def test_pruning_deletes_what_is_old_and_nothing_else(store: DecisionStore) -> None:
    """Age decides; intents have none."""
    await store.put_intent(Intent(MAC, "drain", "x", 1.0))
    await store.append([decision(1, 100.0), decision(2, 200.0), FleetSnapshot(100.0, {"a": 1})])
    assert await store.prune(150.0) == 2
    assert await store.records_of(REQUEST) == [decision(2, 200.0)]
    assert len(await store.intents()) == 1


async def test_everything_is_there_for_the_next_process(tmp_path: Path) -> None:
    """Intents and decisions outlive the store that wrote them; the file is private."""
    path = tmp_path / "router.db"
    first = DecisionStore(path)
    await first.open()
    await first.put_intent(Intent(MAC, "drain", "x", 1.0))
    await first.append([decision()])
    await first.close()
    await first.close()

    second = DecisionStore(path)
    await second.open()
    assert await second.intents() == [Intent(MAC, "drain", "x", 1.0)]
    assert await second.records_of(REQUEST) == [decision()]
    await second.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_an_acknowledged_intent_is_on_disk(tmp_path: Path) -> None:
    """Another connection sees the intent as soon as `put_intent` has returned."""
    path = tmp_path / "router.db"
    store = DecisionStore(path)
    await store.open()
    await store.put_intent(Intent(MAC, "drain", "x", 1.0))
    other = sqlite3.connect(path)
    assert other.execute("SELECT machine FROM intents").fetchall() == [("mac_a",)]
    other.close()
    await store.close()


async def test_an_unusable_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """Not a database, a newer version, a folder: each says what to do, and touches nothing."""
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"this is not a database" * 100)
    newer = tmp_path / "newer.db"
    connection = sqlite3.connect(newer)
    connection.execute("CREATE TABLE t (x)")
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    for path, why in ((garbage, "not a database"), (newer, "newer version"), (tmp_path, "")):
        before = path.read_bytes() if path.is_file() else b""
        store = DecisionStore(path)
        with pytest.raises(StoreUnusable, match="move it away"):
            check(path)
        with pytest.raises(StoreUnusable, match="move it away") as refused:
            await store.open()
        assert why in refused.value.message
        assert (path.read_bytes() if path.is_file() else b"") == before
        await store.close()


def schema_no_text(clean: bytes) -> bytes:
    """SQLite's own message quotes the name of the table, which is no UTF-8."""
    broken = clean.replace(b"tableintentsintents", b"table\xffntentsintents")
    assert broken != clean
    return broken.replace(b"CREATE TABLE intents", b"CREATE TABEL intents")


DAMAGE = {
    "cut in its head": lambda clean: clean[:100],
    "cut": lambda clean: clean[:5_000],
    "zeros": lambda clean: bytes(len(clean)),
    "no header": lambda clean: b"x" * 100 + clean[100:],
    "schema page": lambda clean: clean[:100] + b"\xff" * 3_996 + clean[4_096:],
    "schema that is no text": schema_no_text,
    "every table": lambda clean: clean[:4_096] + b"\xff" * (len(clean) - 4_096),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_file_is_refused_at_once(tmp_path: Path, damage: str) -> None:
    """Whatever is broken at its head: the same error with the way out, and not later."""
    path = tmp_path / "router.db"
    store = DecisionStore(path)
    await store.open()
    await store.close()
    path.write_bytes(DAMAGE[damage](path.read_bytes()))

    with pytest.raises(StoreUnusable, match="move it away"):
        check(path)
    store = DecisionStore(path)
    with pytest.raises(StoreUnusable, match="move it away"):
        await store.open()
    await store.close()


async def test_looking_at_a_usable_file_changes_nothing(tmp_path: Path) -> None:
    """None yet, empty, in use or closed: `check` is silent and makes no file."""
    path = tmp_path / "router.db"
    check(path)
    assert not path.exists()
    path.touch()
    check(path)
    store = DecisionStore(path)
    await store.open()
    await store.put_intent(Intent(MAC, "drain", "x", 1.0))
    check(path)
    await store.close()
    before = path.read_bytes()
    check(path)
    assert path.read_bytes() == before


def test_the_story_shows_public_ids_only() -> None:
    """An explanation names providers, never machines, and is empty for the unknown."""
    story = explain(REQUEST, [decision(1), ended(1, result="failed"), decision(2)])
    assert story is not None
    assert "mac_" not in repr(story)
    assert [a["attempt"] for a in story["attempts"]] == [1, 2]
    assert story["attempts"][0]["decision"]["ruled_out"] == {"draining": 2}
    assert story["attempts"][0]["outcome"]["result"] == "failed"
    assert story["state"] == "open"
    assert explain(REQUEST, []) is None
