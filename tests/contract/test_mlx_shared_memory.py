"""Two models in one memory: together they never exceed it, and neither starves the other.

Two cores are driven by hand, turn by turn.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from actors.engines.choice import Choice
from actors.engines.memory import CACHE_BLOCK_TOKENS, SharedMemory, reserve_bytes
from actors.engines.mlx import runtime
from actors.engines.mlx.core import EngineCore, load_core
from actors.engines.mlx.readings import Reading
from actors.engines.model_folder import read_folder
from market.types import Event, Job, ModelId, RequestId
from tests.support.engine_bench import GREEDY
from tests.support.mlx_cores import make_core
from tests.tiny_model import build_tiny_model

MODEL = ModelId("test/tiny")
ROW_BYTES = 2 * CACHE_BLOCK_TOKENS * 512
"""A sequence of up to a block: 512 bytes a token, twice for the copy."""

TURNS_MAX = 2_000


class Two:
    """Two cores in a memory with room for so many rows beside the weights."""

    def __init__(self, folders: tuple[Path, Path], rows: float) -> None:
        facts = [read_folder(folder) for folder in folders]
        weights = sum(each.weight_bytes for each in facts)
        self.budget = int((weights + rows * ROW_BYTES) / 0.75)
        self.memory = SharedMemory(self.budget)
        self.cores = [make_core(each, slots=8, memory=self.memory) for each in facts]
        self.heard: dict[str, list[Event]] = {}

    def add(self, which: int, name: str, tokens: int = 20, scope: str = "") -> None:
        core = self.cores[which]
        prompt = tuple(range(30, 40))
        job = Job(RequestId(name), MODEL, prompt, tokens, GREEDY, cache_scope=scope)
        core.add([Choice(job, 0, core.ready.vocabulary)])

    def turn(self) -> None:
        for core in self.cores:
            core.turn()
            for event in core.take_events():
                self.heard.setdefault(event.request_id, []).append(event)
        used = sum(core.reading.batch_bytes + core.prefix_bytes() for core in self.cores)
        assert used + self.memory.weight_bytes() <= self.budget

    def until_idle(self) -> None:
        for _ in range(TURNS_MAX):
            self.turn()
            if not any(core.busy for core in self.cores):
                return
        raise AssertionError("they did not come to an end")

    def over(self, name: str) -> bool:
        return any(event.finish or event.error for event in self.heard.get(name, ()))

    def running(self) -> int:
        return sum(core.reading.running for core in self.cores)

    def close(self) -> None:
        for core in self.cores:
            core.close()


@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    other = build_tiny_model(tmp_path_factory.mktemp("llama"), architecture="llama", seed=5)
    return tiny_folder, other


@pytest.fixture
def two(folders: tuple[Path, Path]) -> Iterator[Two]:
    two = Two(folders, rows=3.5)
    yield two
    two.close()


def test_what_one_has_admitted_the_other_cannot(two: Two) -> None:
    """With room for three rows in all, three run at most, and all are answered in the end."""
    for number in range(6):
        two.add(number % 2, f"r{number}")
    most = 0
    for _ in range(TURNS_MAX):
        two.turn()
        most = max(most, sum(len(core._batch.rows) for core in two.cores))
        if not any(core.busy for core in two.cores):
            break
    assert most == 3
    assert all(two.over(f"r{number}") for number in range(6))


def test_a_large_request_is_not_kept_waiting_by_a_flow_of_small_ones(two: Two) -> None:
    """Models that wait for room are let in by turns: at most what had waited before goes first."""
    for number in range(3):
        two.add(0, f"early{number}", tokens=8 + 5 * number)  # they never end together
    two.turn()
    two.add(1, "large", tokens=700)  # as much as there is
    sent = 0
    for _ in range(500):
        while sum(not two.over(f"small{number}") for number in range(sent)) < 6:
            two.add(0, f"small{sent}", tokens=8 + 5 * (sent % 3))
            sent += 1
        two.turn()
        if two.heard.get("large"):
            break
    assert two.heard.get("large"), "it never got room"
    assert sum(two.over(f"small{number}") for number in range(sent)) <= 3


def test_a_cancelled_claim_is_given_up(two: Two) -> None:
    """Whoever waited for room and was cancelled holds nobody up."""
    for number in range(3):
        two.add(0, f"early{number}")
    two.turn()
    two.add(1, "large", tokens=480)
    two.turn()
    two.add(0, "small")
    two.cores[1].cancel(RequestId("large"))
    two.until_idle()
    assert two.over("small")
    assert [event.finish for event in two.heard["large"]] == ["cancelled"]


def test_stored_prefixes_of_one_give_way_to_work_of_the_other(folders: tuple[Path, Path]) -> None:
    """Nobody waits for memory that is only remembered."""
    two = Two(folders, rows=1.02)
    for number in range(2):
        two.add(0, f"kept{number}", scope="ada")
        two.until_idle()
    assert two.cores[0].prefix_bytes() > 0
    two.add(1, "r")
    two.turn()
    assert two.cores[1]._batch.rows
    assert two.cores[0].prefix_bytes() == 0
    two.until_idle()
    assert two.over("r")
    two.close()


def test_what_no_waiting_makes_room_for_is_for_another_mac(folders: tuple[Path, Path]) -> None:
    """Accepted when its model was alone, it does not wait for ever beside another one."""
    two = Two(folders, rows=1.5)
    two.add(1, "large", tokens=480)
    two.add(1, "small")
    two.until_idle()
    (refused,) = two.heard["large"]
    assert refused.error is not None
    assert refused.error.code == "rejected"
    assert two.heard["small"][-1].finish in ("stop", "length")
    two.close()


def test_a_model_that_leaves_gives_its_share_to_the_others(two: Two) -> None:
    """Its weights, its rows, its prefixes and its claim."""
    gone: EngineCore = two.cores.pop(1)
    before = two.cores[0].ready.longest_tokens()
    gone.close()
    assert two.cores[0].ready.longest_tokens() > before
    for number in range(5):
        two.add(0, f"r{number}")
    two.turn()
    assert two.running() > 3


def test_a_model_is_read_only_where_what_runs_has_left_room(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is kept for it: nobody starts there, and it waits for those who had started."""
    monkeypatch.setattr(runtime, "LOAD_SLICE_BYTES", 1)
    first, second = (read_folder(folder) for folder in folders)
    weights = first.weight_bytes + second.weight_bytes
    memory = SharedMemory(int((weights + 1.5 * ROW_BYTES) / 0.75))
    room = memory.budget_bytes - reserve_bytes(memory.budget_bytes)
    core = make_core(first, slots=8, memory=memory)
    for number in range(8):
        prompt = tuple(range(30 + number, 50 + number))
        job = Job(RequestId(f"r{number}"), MODEL, prompt, 60, GREEDY)
        core.add([Choice(job, 0, core.ready.vocabulary)])
    core.turn()
    before = len(core._batch.rows)
    assert before > 1
    assert core.weight_bytes + core.batch_bytes() + second.weight_bytes > room
    loading = load_core(second, Reading(), memory, slots=8)
    waited = other = None
    while other is None:
        try:
            next(loading)
        except StopIteration as done:
            other = done.value
        reading = runtime_reads(loading)
        waited = waited or not reading
        if reading or other is not None:
            assert memory.promised_bytes() <= room
        core.turn()
        assert len(core._batch.rows) <= before
    assert waited
    for _ in range(TURNS_MAX):
        core.turn()
        other.turn()
        assert memory.promised_bytes() <= room
        if not core.busy:
            break
    ended = [event.request_id for event in core.take_events() if event.finish or event.error]
    assert sorted(ended) == [f"r{number}" for number in range(8)]
    for each in (core, other):
        each.close()


def runtime_reads(loading: Generator[None, None, EngineCore]) -> bool:
    """Whether the load has come to reading weights."""
    return loading.gi_yieldfrom is not None


def test_a_load_that_is_given_up_keeps_no_memory(folders: tuple[Path, Path]) -> None:
    """Whatever the moment at which it is dropped."""
    for slices in (1, 2):
        memory = SharedMemory(2**30)
        loading = load_core(read_folder(folders[0]), Reading(), memory, slots=8)
        for _ in range(slices):
            next(loading)
        assert memory.promised_bytes() > 0
        loading.close()
        assert memory.promised_bytes() == 0


def test_a_busy_model_reads_in_small_pieces_while_another_one_answers(two: Two) -> None:
    """Who reads a long prompt does not silence those whom another model is answering."""
    reader, talker = two.cores
    two.add(1, "talker", tokens=40)
    for _ in range(3):
        two.turn()
    assert talker.decoding
    budgets = []
    for others_wait in (False, talker.decoding):
        reader.turn(others_wait)
        budgets.append(reader._prefill_budget())
    assert budgets[1] < budgets[0] / 4
