"""Laws of the load generator's parts: words, ears, wishes, and a clock that never waits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from actors.engines.factory import DEMO_FOLDER
from coster.load.calls import body_of, provider_of
from coster.load.ear import TAIL_BYTES, Ear
from coster.load.words import Prompts, speech_of
from market.errors import InvalidRequest
from market.policy.preferences import NO_PREFERENCES, TRUST, Preferences
from market.policy.prefixes import BLOCK_TOKENS, block_hashes
from market.types import ModelId, ProviderId
from serve_app.preferences import provider
from simulator.records import Arrival

FILE = DEMO_FOLDER / "tokenizer.json"
SPEECH = speech_of(FILE)
WORDS = SPEECH.words
TOKENIZER = Tokenizer.from_file(str(FILE))
MODEL = ModelId("coster/demo")


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text).ids)


def arrival(number: int = 0, prompt: int = 100, output: int = 7, **more: object) -> Arrival:
    at_s = float(str(more.pop("at_s", number)))
    return Arrival(number, at_s, "c", MODEL, prompt, output, output, **more)  # type: ignore[arg-type]


# ── words ─────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=200))
def test_a_word_is_one_token_wherever_it_stands(words: list[str]) -> None:
    """However words are put together, a text has as many tokens as words."""
    assert len(ids("".join(words))) == len(words)


@given(
    st.integers(1, 700),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=12, unique=True),
    st.integers(0, 12),
)
def test_a_prompt_has_its_length_and_shares_what_it_should(
    tokens: int, hashes: list[int], shared: int
) -> None:
    """Exactly so many tokens; of two prompts whose hashes begin alike, the market's own hashes
    begin alike, as far and no further.
    """
    other = [*hashes[:shared], *(~each for each in hashes[shared:])]
    prompts = Prompts(SPEECH, 1)
    texts = [
        prompts.of(arrival(n, tokens, prefix=tuple(each))) for n, each in enumerate((hashes, other))
    ]

    first, second = (ids(text) for text in texts)
    assert len(first) == len(second) == tokens
    alike = [
        one == two
        for one, two in zip(block_hashes(first, "c", MODEL), block_hashes(second, "c", MODEL))  # noqa: B905 - one may have a block more
    ]
    expected = min(shared, len(hashes), tokens // BLOCK_TOKENS)
    assert alike[:expected] == [True] * expected
    assert not any(alike[expected:])


def test_equal_seeds_give_equal_texts_and_others_do_not() -> None:
    """The words of a run are its seed's, those of shared beginnings too: caches that an earlier
    run has filled do not help.
    """
    asked = [arrival(n, 300, prefix=(7, 8, 9)) for n in range(3)]
    one, same, other = ([Prompts(SPEECH, s).of(a) for a in asked] for s in (1, 1, 2))
    assert one == same
    first = [block_hashes(ids(text), "c", MODEL)[0] for text in (one[0], other[0])]
    assert first[0] != first[1]


@pytest.mark.parametrize("said", ["".join(WORDS[:6]), "xyz!", "ther, re", "", " the\n"])
def test_a_conversation_goes_on_with_what_was_answered(said: str) -> None:
    """The next prompt is the last one, its answer in whatever words, and new ones, of exactly the
    wanted length.
    """
    prompts = Prompts(SPEECH, 1)
    first = arrival(0, 90, 6, session="s")
    asked = prompts.of(first)
    prompts.answered(first, said)

    then = prompts.of(arrival(1, 150, 5, session="s"))

    assert then.startswith(asked + said)
    assert len(ids(then)) == 150


def test_a_conversation_does_not_wait_for_a_late_answer() -> None:
    """What is not there when the next turn is due is taken to be the prompt's own words again,
    which is what a simulated Mac says; when it comes later it changes nothing.
    """
    prompts = Prompts(SPEECH, 1)
    first = arrival(0, 4, 6, session="s")
    asked = prompts.of(first)
    second = prompts.of(arrival(1, 20, 5, session="s"))
    words = asked.split(" ")[1:]
    again = "".join(f" {word}" for word in [*words, *words[:2]])
    assert second.startswith(asked + again)

    prompts.answered(first, " too late")
    third = prompts.of(arrival(2, 40, 5, session="s"))
    assert third.startswith(second)
    assert len(ids(third)) == 40


def test_a_prompt_that_a_limit_has_cut_is_cut(tmp_path: Path) -> None:
    """A turn that must be shorter than what was said is its beginning."""
    prompts = Prompts(SPEECH, 1)
    asked = prompts.of(arrival(0, 50, 10, session="s"))
    assert prompts.of(arrival(1, 30, 10, session="s")) == "".join(
        f" {word}" for word in asked.split(" ")[1:31]
    )


def test_a_tokenizer_without_words_is_refused(tmp_path: Path) -> None:
    """Where no word is one token, and where the file is none, the fix is told."""
    (tmp_path / "none.json").write_text("{}")
    letters = tmp_path / "letters.json"
    Tokenizer(WordLevel({"a": 0, "?": 1}, unk_token="?")).save(str(letters))
    for path in (letters, tmp_path / "none.json"):
        with pytest.raises(InvalidRequest, match=r"tokenizer"):
            speech_of(path)


# ── ears ──────────────────────────────────────────────────────────────────────────────

USAGE = {"prompt_tokens": 3, "completion_tokens": 400, "cost_nano_usd": "7"}


def stream(texts: Iterable[str], *ends: object) -> bytes:
    events: list[object] = [{"choices": [{"index": 0, "text": text}]} for text in texts]
    told = b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in (*events, *ends))
    return b": queued\n\n" + told + b"data: [DONE]\n\n"


@given(st.lists(st.integers(1, 4_000), max_size=20), st.booleans())
def test_an_ear_hears_the_same_however_a_stream_is_cut(cuts: list[int], keep: bool) -> None:
    """The bill, the end and the first word are found in any pieces; events without text are no
    first word; with `keep_text` every word is there.
    """
    texts = ["", "", *(f"word {n} " for n in range(400))]
    finish = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
    data = stream(texts, finish, {"choices": [], "usage": USAGE})
    ear, at, now_s = Ear(keep_text=keep), 0, 0.0
    first_byte = data.index(b"word 0")
    expected_s = None
    for size in [*cuts, len(data)]:
        piece, at, now_s = data[at : at + size], at + size, now_s + 1.0
        if piece:
            ear.feed(piece, now_s)
        # Heard once its event is whole.
        whole = data.find(b"\n\n", first_byte) + 2
        if expected_s is None and at >= whole:
            expected_s = now_s
    ear.close(now_s)

    assert ear.first_s == expected_s
    assert (ear.usage, ear.done, ear.error, ear.finish) == (USAGE, True, {}, "length")
    assert ear.text == ("".join(texts) if keep else ear.text)


def test_an_ear_keeps_little_of_a_long_answer() -> None:
    """Ten thousand words take no more room than the end of a stream."""
    ear = Ear(keep_text=False)
    for number in range(10_000):
        ear.feed(stream([f"word {number}"])[:-14], 1.0)
        assert len(ear._rest) <= 4 * TAIL_BYTES
    ear.feed(stream([], {"choices": [], "usage": USAGE}), 2.0)
    ear.close(2.0)
    assert ear.usage == USAGE


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: [1]\n\n", b"data: \xff\n\n"])
def test_what_is_no_stream_of_ours_is_an_error(data: bytes) -> None:
    """An event that cannot be read is told as such, never passed over."""
    ear = Ear(keep_text=False)
    ear.feed(data, 1.0)
    assert ear.error == {"code": "not_json"}


# ── wishes ────────────────────────────────────────────────────────────────────────────

NAMES = st.lists(st.sampled_from(["prv_a", "prv_b", "prv_c", "prv_d"]), max_size=4, unique=True)
PRICES = st.none() | st.integers(0, 10**6)


@given(
    st.builds(
        Preferences,
        order=NAMES.map(tuple),
        ignore=st.just(()) | st.just((ProviderId("prv_z"),)),
        allow_fallbacks=st.booleans(),
        sort=st.sampled_from([None, "price", "latency", "throughput"]),
        max_price_in_nano=PRICES,
        max_price_out_nano=PRICES,
        trust=st.sampled_from([None, *TRUST]),
        quantizations=st.lists(st.sampled_from(["4bit", "8bit"]), unique=True).map(tuple),
        preferred_max_latency_ms=st.none() | st.integers(1, 2_400).map(lambda n: n * 250.0),
        preferred_min_tps=st.none() | st.integers(1, 1_000).map(float),
    )
)
def test_the_door_reads_the_wishes_that_were_sent(wishes: Preferences) -> None:
    """What goes over the wire comes to the same preferences behind the market's own door."""
    sent = orjson.loads(orjson.dumps(provider_of(wishes)))
    heard = provider().apply("provider", sent).preferences

    pointless = not wishes.order and not wishes.allow_fallbacks
    assert heard == (replace(wishes, allow_fallbacks=True) if pointless else wishes)


def test_the_labs_names_of_macs_become_the_fleets() -> None:
    """`prv_1` is the second Mac of a fleet that is known; other names are left alone."""
    wishes = replace(NO_PREFERENCES, only=(ProviderId("prv_1"), ProviderId("prv_live")))
    assert provider_of(wishes, ["prv_x", "prv_y"])["only"] == ["prv_y", "prv_live"]


def test_a_body_says_what_the_workload_says() -> None:
    """Class, deadline, conversation, wishes and the exact length are in it; nothing else is."""
    plain = orjson.loads(body_of(arrival(), "hi"))
    assert plain.keys() == {
        *("model", "prompt", "max_tokens", "temperature", "stream", "stream_options")
    }
    wishes = replace(NO_PREFERENCES, sort="price")
    full = arrival(request_class="batch", deadline_s=9.0, session="s", preferences=wishes)
    told = orjson.loads(body_of(full, "hi"))
    assert (told["service_tier"], told["deadline_s"]) == ("flex", 9.0)
    assert (told["prompt_cache_key"], told["provider"]) == ("s", {"sort": "price"})
    assert told["max_tokens"] == 7
