"""What a job must satisfy before it may touch a batch.

Sequences of many consumers run in one batch, so a value that raises deep inside a step would
harm the others: every one is refused here, by name. Pure; the errors are InvalidRequest.
"""

from __future__ import annotations

from collections.abc import Container

from market import sampling_bounds as bounds
from market.errors import InvalidRequest
from market.types import Job, Sampling


def check_job(job: Job, *, vocab_size: int, context_tokens: int, ends: Container[int] = ()) -> None:
    """Raise InvalidRequest naming the first field this model cannot run.

    `ends` are the tokens with which the model ends an answer.
    """
    _check_prompt(job, vocab_size, context_tokens)
    _check_count("n", job.n, 1, bounds.CHOICES_MAX)
    if job.top_logprobs is not None:
        _check_count("top_logprobs", job.top_logprobs, 0, bounds.CHAT_TOP_LOGPROBS_MAX)
    _check_stops(job.stop)
    _check_sampling(job.sampling, vocab_size)
    if job.said:
        _check_said(job, vocab_size, ends)


def _refuse(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, field, "invalid_value")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_count(field: str, value: object, low: int, high: int) -> None:
    if not (isinstance(value, int) and _is_int(value) and low <= value <= high):
        raise _refuse(field, f"{field} must be a whole number from {low} to {high}.")


def _check_number(field: str, value: object, within: bounds.Bounds) -> None:
    low, high = within.low, within.high
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and low <= value <= high):  # type: ignore[operator]  # narrowed by `number`
        raise _refuse(field, f"{field} must be a number from {low:g} to {high:g}.")


def _check_ids(field: str, tokens: tuple[int, ...], vocab_size: int) -> None:
    if not all(_is_int(token) for token in tokens) or not (
        min(tokens) >= 0 and max(tokens) < vocab_size
    ):
        raise _refuse(field, f"Token ids must be whole numbers from 0 to {vocab_size - 1}.")


def _check_prompt(job: Job, vocab_size: int, context_tokens: int) -> None:
    prompt = job.prompt_ids
    if not prompt:
        raise _refuse("prompt", "The prompt is empty; send at least one token.")
    _check_ids("prompt", prompt, vocab_size)
    if len(prompt) >= context_tokens:
        raise InvalidRequest(
            f"The prompt has {len(prompt)} tokens; this model's context of {context_tokens} "
            "must also hold the answer. Shorten the prompt.",
            "prompt",
            "context_length_exceeded",
        )
    _check_count("max_tokens", job.max_tokens, 1, 2**31)
    if len(prompt) + job.max_tokens > context_tokens:
        raise InvalidRequest(
            f"The prompt's {len(prompt)} tokens and max_tokens {job.max_tokens} exceed this "
            f"model's context of {context_tokens}. Ask for at most "
            f"{context_tokens - len(prompt)} tokens.",
            "max_tokens",
            "context_length_exceeded",
        )


def _check_said(job: Job, vocab_size: int, ends: Container[int]) -> None:
    """An answer that another Mac began can go on only where its text is all there was to it."""
    _check_ids("said", job.said, vocab_size)
    if job.n != 1:
        raise _refuse("said", f"Only a single choice can be continued, and n is {job.n}.")
    if job.top_logprobs is not None:
        raise _refuse("said", "An answer with log-probabilities cannot be continued.")
    if len(job.said) >= job.max_tokens:
        raise _refuse("said", f"All {job.max_tokens} tokens were said: nothing is left to say.")
    if any(token in ends for token in job.said):
        raise _refuse("said", "What was said holds an end token: the answer is over.")


def _check_stops(stops: object) -> None:
    if not isinstance(stops, tuple | list) or len(stops) > bounds.STOPS_MAX:
        raise _refuse("stop", f"stop must be a list of at most {bounds.STOPS_MAX} strings.")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= bounds.STOP_CHARS_MAX:
            raise _refuse(
                "stop", f"Each stop must be a string of 1 to {bounds.STOP_CHARS_MAX} characters."
            )


def _check_sampling(sampling: Sampling, vocab_size: int) -> None:
    _check_number("temperature", sampling.temperature, bounds.TEMPERATURE)
    _check_number("top_p", sampling.top_p, bounds.TOP_P)
    if sampling.top_p == 0:
        raise _refuse("top_p", "top_p must be above 0; use temperature 0 for greedy output.")
    _check_count("top_k", sampling.top_k, 0, vocab_size - 1)
    _check_number("min_p", sampling.min_p, bounds.MIN_P)
    _check_number("frequency_penalty", sampling.frequency_penalty, bounds.FREQUENCY_PENALTY)
    _check_number("presence_penalty", sampling.presence_penalty, bounds.PRESENCE_PENALTY)
    _check_number("repetition_penalty", sampling.repetition_penalty, bounds.REPETITION_PENALTY)
    if sampling.seed is not None:
        _check_count("seed", sampling.seed, bounds.SEED_MIN, bounds.SEED_MAX)
    _check_bias(sampling.logit_bias, vocab_size)


def _check_bias(bias: tuple[tuple[int, float], ...], vocab_size: int) -> None:
    if len(bias) > bounds.LOGIT_BIASES_MAX:
        raise _refuse(
            "logit_bias", f"logit_bias may name at most {bounds.LOGIT_BIASES_MAX} tokens."
        )
    for token, value in bias:
        _check_count("logit_bias", token, 0, vocab_size - 1)
        _check_number("logit_bias", value, bounds.LOGIT_BIAS)
    if len({token for token, _ in bias}) != len(bias):
        raise _refuse("logit_bias", "logit_bias names a token twice.")
