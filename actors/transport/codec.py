"""The frames between a gateway and a provider: length-prefixed msgpack, no pickle.

One frame is a 4-byte big-endian length and a msgpack array whose first element is a
`Kind`. A peer is never trusted: a frame that is too long, not msgpack, of an unknown kind
or of the wrong shape raises `ProtocolError`, and the connection is closed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any

import msgpack

from market.types import Event, Job, JobFailure, ModelId, RequestId, Sampling, TokenLogprob

FRAME_BYTES_MAX = 8 * 1024 * 1024
"""A prompt of 1M token ids is 5 MB; nothing legitimate is larger."""

PARAM_CHARS_MAX = 100
"""A failure names a field; the gateway repeats it to the caller."""

_LENGTH = struct.Struct("!I")
_NO_ERROR = None


class ProtocolError(ConnectionError):
    """The peer sent something that is not a frame of ours."""


class Kind(IntEnum):
    """What a frame is. Values are wire format: never renumber."""

    CHALLENGE = 1  # provider → gateway: nonce, machine
    HELLO = 2  # gateway → provider: gateway id, nonce, proof
    WELCOME = 3  # provider → gateway: proof
    SUBMIT = 10  # gateway → provider: job
    CANCEL = 11  # gateway → provider: request id
    EVENTS = 12  # provider → gateway: events of one engine step
    BEAT = 13  # both ways: I am alive


def pack_frame(kind: Kind, *fields: Any) -> bytes:
    """One frame as bytes, ready to be written."""
    body: bytes = msgpack.packb((int(kind), *fields), use_bin_type=True)
    if len(body) > FRAME_BYTES_MAX:
        raise ProtocolError(f"frame of {len(body)} bytes exceeds {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into frames. Keeps at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, list[Any]]]:
        """Take bytes as they come; yield each complete frame as (kind, fields)."""
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer, start)
                if length > FRAME_BYTES_MAX:
                    raise ProtocolError(f"frame of {length} bytes exceeds {FRAME_BYTES_MAX}")
                end = start + _LENGTH.size + length
                if len(buffer) < end:
                    break
                body = bytes(buffer[start + _LENGTH.size : end])
                start = end
                yield _parse(body)
        finally:
            del buffer[:start]


def _parse(body: bytes) -> tuple[Kind, list[Any]]:
    try:
        fields = msgpack.unpackb(body, raw=False, use_list=True, strict_map_key=True)
        return Kind(fields[0]), fields[1:]
    except (ValueError, TypeError, IndexError, KeyError, msgpack.UnpackException) as error:
        raise ProtocolError(f"unreadable frame: {type(error).__name__}") from error


def job_to_wire(job: Job) -> list[Any]:
    s = job.sampling
    return [
        job.request_id,
        job.model,
        job.prompt_ids,
        job.max_tokens,
        [
            s.temperature,
            s.top_p,
            s.top_k,
            s.min_p,
            s.frequency_penalty,
            s.presence_penalty,
            s.repetition_penalty,
            s.logit_bias,
            s.seed,
        ],
        job.stop,
        job.n,
        job.top_logprobs,
        job.cache_scope,
        job.said,
    ]


def job_from_wire(fields: Sequence[Any]) -> Job:
    try:
        rid, model, prompt, max_tokens, s, stop, n, top, scope, said = fields
        temperature, top_p, top_k, min_p, frequency, presence, repetition, bias, seed = s
        return Job(
            request_id=RequestId(str(rid)),
            model=ModelId(str(model)),
            prompt_ids=tuple(prompt),
            max_tokens=int(max_tokens),
            sampling=Sampling(
                temperature=float(temperature),
                top_p=float(top_p),
                top_k=int(top_k),
                min_p=float(min_p),
                frequency_penalty=float(frequency),
                presence_penalty=float(presence),
                repetition_penalty=float(repetition),
                logit_bias=tuple((int(i), float(b)) for i, b in bias),
                seed=None if seed is None else int(seed),
            ),
            stop=tuple(str(text) for text in stop),
            n=int(n),
            top_logprobs=None if top is None else int(top),
            cache_scope=str(scope),
            said=tuple(said),
        )
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"malformed job: {error}") from error


def events_to_wire(events: Iterable[Event]) -> list[list[Any]]:
    return [
        [
            e.request_id,
            e.index,
            e.token_ids,
            e.text,
            e.count,
            e.finish,
            e.cached_tokens,
            [(p.token_id, p.text, p.logprob, p.top) for p in e.logprobs],
            _NO_ERROR if e.error is None else (e.error.code, e.error.message, e.error.param),
        ]
        for e in events
    ]


def events_from_wire(rows: Sequence[Sequence[Any]]) -> list[Event]:
    try:
        return [_event(*row) for row in rows]
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"malformed event: {error}") from error


def _event(
    rid: str,
    index: int,
    ids: list[int],
    text: str,
    count: int,
    finish: Any,
    cached: int,
    logprobs: list[Any],
    error: Any,
) -> Event:
    return Event(
        RequestId(rid),
        index,
        tuple(ids),
        text,
        count,
        finish,
        cached,
        tuple(
            TokenLogprob(i, t, p, tuple((a, b, c) for a, b, c in top)) for i, t, p, top in logprobs
        )
        if logprobs
        else (),
        None if error is None else _failure(*error),
    )


def _failure(code: Any, message: Any, param: Any = None) -> JobFailure:
    """A peer of an earlier version sends no `param`."""
    return JobFailure(code, str(message), None if param is None else str(param)[:PARAM_CHARS_MAX])
