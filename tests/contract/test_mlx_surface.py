"""What we use of mlx_lm that it does not promise: names, parameters and private attributes.

BatchGenerator is not in mlx_lm's public list and has changed twice in two releases. If an
upgrade moves any of this, these tests say what, before the engine says it in production.
"""

from __future__ import annotations

import inspect
import resource
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from actors.engines.memory import CACHE_BLOCK_TOKENS
from actors.engines.mlx.runtime import import_mlx, load_slices
from actors.engines.model_folder import read_folder
from tests.support.mlx_cores import finished


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    import_mlx()
    return finished(load_slices(read_folder(tiny_folder))).model


@pytest.fixture
def generator(model: Any) -> Any:
    from mlx_lm.generate import BatchGenerator

    return BatchGenerator(
        model, stop_tokens=[[2]], completion_batch_size=4, prefill_batch_size=4,
        prefill_step_size=32,
    )  # fmt: skip


def test_the_pinned_versions_are_installed() -> None:
    """What was read and measured is these versions; others need this file read again."""
    assert version("mlx-lm") == "0.32.2"
    assert version("mlx") == "0.32.4"


def test_insert_takes_what_we_pass(generator: Any) -> None:
    """Tokens, limits, caches with their tokens, samplers and processors are per row."""
    parameters = inspect.signature(generator.insert).parameters
    assert {
        "prompts", "max_tokens", "caches", "all_tokens", "samplers", "logits_processors",
    } <= set(parameters)  # fmt: skip


def test_the_attributes_we_set_and_read_exist(generator: Any) -> None:
    """The prefill step is read at each `next`; the wired limit and the batch are private."""
    assert generator.prefill_step_size == 32
    assert hasattr(generator, "_old_wired_limit")
    assert hasattr(generator._generation_batch, "prompt_cache")
    assert generator.prompt_cache_nbytes == 0
    assert callable(generator.remove)
    assert callable(generator.close)


def test_next_reports_prompts_and_answers(generator: Any) -> None:
    """Progress counts prompt tokens; the last answer carries caches of exactly its tokens."""
    prompt = list(range(20, 60))
    (uid,) = generator.insert([prompt], max_tokens=[3])
    read, answers, ended_prompt = [], [], False
    while not answers or answers[-1].finish_reason is None:
        prompts, generated = generator.next()
        for one in prompts:
            assert one.uid == uid
            read.append(one.progress)
            ended_prompt = ended_prompt or one.end_of_prompt
        answers.extend(generated)
    assert read[0] == (32, 40)
    assert ended_prompt
    last = answers[-1]
    assert [a.finish_reason for a in answers[:-1]] == [None] * (len(answers) - 1)
    assert last.all_tokens == prompt + [a.token for a in answers]
    assert {layer.offset for layer in last.prompt_cache} == {len(last.all_tokens)}
    assert last.logprobs.shape == (360,)


def test_the_prefill_step_can_change_between_steps(generator: Any) -> None:
    """Setting it cuts the rest of a prompt into chunks of the new size."""
    generator.insert([list(range(20, 80))], max_tokens=[1])
    generator.prefill_step_size = 10
    done = [generator.next()[0][0].progress[0] for _ in range(3)]
    assert done == [10, 20, 30]


def test_removed_rows_return_caches_of_exactly_their_tokens(generator: Any) -> None:
    """Half-read and decoding rows alike give back what they have computed."""
    uids = generator.insert([list(range(20, 90)), [5, 6, 7]], max_tokens=[9, 9])
    for _ in range(2):
        generator.next()
    kept = generator.remove(uids, return_prompt_caches=True)
    assert set(kept) == set(uids)
    for caches, tokens in kept.values():
        assert tokens
        assert {layer.offset for layer in caches} == {len(tokens)}
    assert generator.next() == ([], [])


def test_caches_trim_merge_and_grow_in_blocks(model: Any) -> None:
    """A trimmed copy leaves the original whole; the block size is the one we plan with."""
    import copy

    import mlx.core as mx
    from mlx_lm.models.cache import KVCache, can_trim_prompt_cache, make_prompt_cache

    cache = make_prompt_cache(model)
    assert can_trim_prompt_cache(cache)
    assert KVCache.step == CACHE_BLOCK_TOKENS
    model(mx.array([[5, 6, 7, 8]]), cache=cache)
    shorter = copy.deepcopy(cache)
    for layer in shorter:
        layer.trim(3)
    assert [layer.offset for layer in cache] == [4] * len(cache)
    assert [layer.offset for layer in shorter] == [1] * len(cache)
    assert hasattr(cache[0], "merge")


def test_importing_leaves_the_limit_on_open_files_alone() -> None:
    """mlx_lm lowers RLIMIT_NOFILE on import; ours restores the function and never calls it."""
    assert resource.setrlimit.__module__ == "resource"
