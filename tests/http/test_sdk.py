"""The official SDK, unchanged but for base_url and key, finds what it expects."""

from __future__ import annotations

import time
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from market.errors import Unavailable
from tests.http.conftest import Server
from tests.http.memory_fleet import Mac
from tests.http.memory_market import Market

GREETING = [{"role": "user", "content": "hello"}]
ECHO = "<user>hello<assistant><user>hello<assistant>"[:24]


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.base_url, api_key=Market.KEY, max_retries=0) as made:
        yield made


def test_a_whole_answer_parses_into_the_sdks_types(client: OpenAI) -> None:
    """Text, finish reason, usage and ids arrive where OpenAI puts them."""
    answer = client.chat.completions.create(model="coster/demo", messages=GREETING)

    assert answer.choices[0].message.content == ECHO
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("<user>hello<assistant>")
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 24
    assert answer.usage.model_extra is not None
    cost_nano = 22 * 15 + 24 * 60
    assert answer.usage.model_extra["cost_nano_usd"] == str(cost_nano)
    assert answer.usage.model_extra["cost_micro_usd"] == cost_nano // 1000


def test_a_stream_has_the_shape_of_openais(client: OpenAI) -> None:
    """Role first, then text, then an empty delta with the reason; one id throughout."""
    chunks = list(
        client.chat.completions.create(
            model="coster/demo", messages=GREETING, stream=True, max_tokens=3
        )
    )

    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == ECHO[:3]
    assert [c.choices[0].finish_reason for c in chunks] == [None] * 4 + ["length"]
    assert chunks[-1].choices[0].delta.content is None
    assert len({c.id for c in chunks}) == 1
    assert all(c.usage is None for c in chunks)


def test_include_usage_adds_one_chunk_without_choices(client: OpenAI) -> None:
    """Every other chunk says usage: null; only the extra one carries figures and cost."""
    chunks = list(
        client.chat.completions.create(
            model="coster/demo",
            messages=GREETING,
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    assert [len(c.choices) for c in chunks] == [1] * (len(chunks) - 1) + [0]
    assert all("usage" in c.model_fields_set and c.usage is None for c in chunks[:-1])
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 24
    assert chunks[-1].usage.model_extra is not None
    assert chunks[-1].usage.model_extra["cost_nano_usd"] == str(22 * 15 + 24 * 60)


async def test_the_async_client_streams_choices_interleaved(server: Server) -> None:
    """The choices arrive by index, each with a finish of its own."""
    texts = {0: "", 1: "", 2: ""}
    reasons: dict[int, str] = {}
    async with AsyncOpenAI(base_url=server.base_url, api_key=Market.KEY) as client:
        stream = await client.chat.completions.create(
            model="coster/demo", messages=GREETING, stream=True, n=3, max_tokens=5
        )
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                if choice.finish_reason:
                    reasons[choice.index] = choice.finish_reason

    assert texts == dict.fromkeys(range(3), ECHO[:5])
    assert reasons == dict.fromkeys(range(3), "length")


def test_logprobs_have_tokens_and_alternatives(client: OpenAI) -> None:
    """Chat's log-probabilities come with bytes and as many alternatives as asked for."""
    answer = client.chat.completions.create(
        model="coster/demo", messages=GREETING, logprobs=True, top_logprobs=2, max_tokens=2
    )

    assert answer.choices[0].logprobs is not None
    entries = answer.choices[0].logprobs.content
    assert entries is not None
    assert [entry.token for entry in entries] == ["<", "u"]
    assert entries[0].bytes == [ord("<")]
    assert [len(entry.top_logprobs) for entry in entries] == [2, 2]


def test_completions_take_text_and_token_ids(client: OpenAI) -> None:
    """The legacy call answers the same for a text and for its token ids."""
    by_text = client.completions.create(model="coster/demo", prompt="abc", max_tokens=4)
    ids = [ord(c) - 31 for c in "abc"]
    by_ids = client.completions.create(model="coster/demo", prompt=ids, max_tokens=4, logprobs=1)

    assert by_text.choices[0].text == by_ids.choices[0].text == "abca"
    assert by_text.object == "text_completion"
    assert by_ids.choices[0].logprobs is not None
    assert by_ids.choices[0].logprobs.text_offset == [0, 1, 2, 3]
    chunks = client.completions.create(model="coster/demo", prompt="abc", max_tokens=4, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "abca"


def test_headers_name_the_mac_the_limits_and_the_ids(client: OpenAI) -> None:
    """Rate headers are there on success; a harmless x-request-id comes back."""
    raw = client.chat.completions.with_raw_response.create(
        model="coster/demo",
        messages=GREETING,
        store=True,
        extra_headers={"x-request-id": "my-id.1"},
    )

    assert raw.headers["x-request-id"] == "my-id.1"
    assert raw.headers["x-coster-request-id"].startswith("req_")
    assert raw.headers["x-coster-provider"].startswith("prv_")
    assert raw.headers["x-coster-ignored-params"] == "store"
    assert raw.headers["x-coster-max-tokens"] == str(1024 - 22)
    assert raw.headers["x-ratelimit-limit-requests"] == "60"
    assert raw.headers["x-ratelimit-reset-tokens"] == "24h0m0s"


def test_models_are_found_by_ids_with_slashes(client: OpenAI) -> None:
    """Listing and retrieving agree, and an unknown id is not found."""
    listed = {model.id for model in client.models.list()}

    assert client.models.retrieve("coster/demo").id in listed
    assert "mlx-community/gemma-4-26b-a4b-it-8bit" in listed
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no/such/model")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_errors_become_the_sdks_own_classes(server: Server, market: Market) -> None:
    """Each status arrives as the class that a caller would catch."""
    client = OpenAI(base_url=server.base_url, api_key=Market.KEY, max_retries=0)

    def create(**fields: object) -> None:
        client.chat.completions.create(  # type: ignore[call-overload]
            **{"model": "coster/demo", "messages": GREETING, **fields}
        )

    with pytest.raises(openai.BadRequestError, match="temperature"):
        create(temperature=9)
    with pytest.raises(openai.NotFoundError):
        create(model="nope")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-other").chat.completions.create(
            model="coster/demo", messages=GREETING
        )
    with pytest.raises(openai.PermissionDeniedError):
        client.with_options(api_key=Market.MANAGEMENT).chat.completions.create(
            model="coster/demo", messages=GREETING
        )
    market.accountant.rate_limited = True
    with pytest.raises(openai.RateLimitError) as limited:
        create()
    assert limited.value.response.headers["retry-after"] == "8"
    market.accountant.rate_limited = False
    market.fund(0)
    with pytest.raises(openai.APIStatusError) as broke:
        create()
    assert broke.value.status_code == 402
    assert broke.value.response.headers["x-should-retry"] == "false"
    client.close()


def test_a_mac_lost_in_mid_stream_raises_in_the_sdk(server: Server, market: Market) -> None:
    """The SDK raises on the terminal event, and nobody pays."""
    for mac in market.fleet.macs:
        mac.fail_after = 4
    text = ""

    with OpenAI(base_url=server.base_url, api_key=Market.KEY, max_retries=0) as client:
        stream = client.chat.completions.create(model="coster/demo", messages=GREETING, stream=True)
        with pytest.raises(openai.APIError, match="nothing is charged"):  # noqa: PT012
            for chunk in stream:
                text += chunk.choices[0].delta.content or ""

    assert text == ECHO[:4]
    assert market.nothing_is_left()
    assert market.ada.credit_nano == 10_000_000_000


def test_the_sdk_retries_a_busy_market(server: Server, market: Market) -> None:
    """503 carries Retry-After and is retried by the SDK itself."""
    market.fleet.error = Unavailable("No Mac now.", None, "no_provider", 0.01)

    with (
        OpenAI(base_url=server.base_url, api_key=Market.KEY, max_retries=1) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.chat.completions.create(model="coster/demo", messages=GREETING)

    assert caught.value.status_code == 503
    assert len(market.fleet.requests) == 2


def test_closing_a_stream_stops_the_mac_and_the_bill(server: Server, market: Market) -> None:
    """Billed minus received is at most one step and one batch of this paced Mac."""
    market.fleet.macs[:] = [Mac("slow", pace_s=0.02)]
    received = 0

    with OpenAI(base_url=server.base_url, api_key=Market.KEY) as client:
        stream = client.chat.completions.create(model="coster/demo", messages=GREETING, stream=True)
        for chunk in stream:
            received += bool(chunk.choices[0].delta.content)
            if received == 5:
                break
        stream.close()
        ends_s = time.monotonic() + 5
        while not market.nothing_is_left() and time.monotonic() < ends_s:
            time.sleep(0.005)

    (row,) = market.accountant.rows.values()
    assert (row.status, row.finish_reason) == ("settled", "cancelled")
    assert 0 <= row.completion_tokens - received <= 2
    assert market.fleet.macs[0].cancelled
    assert market.fleet.produced[row.request_id] <= received + 2
    assert market.nothing_is_left()
