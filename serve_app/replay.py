"""The second answer to a request under its caller's own key: the first one, byte for byte."""

from __future__ import annotations

from market.errors import Conflict
from market.messages import Replay
from market.types import AccountId, RequestId
from serve_app import metric_names
from serve_app.asgi import Send
from serve_app.desk import Desk
from serve_app.envelope import Headers
from serve_app.replies import head_of
from serve_app.sealed import KeptAnswer, OwnKey, UnopenableError

_OURS = b"x-coster-request-id"


async def send_again(
    desk: Desk,
    account: AccountId,
    own_key: OwnKey,
    replay: Replay,
    send: Send,
    id_headers: Headers,
) -> int:
    """Send the kept answer with the first request's id; returns its status.

    Raises Conflict when it was charged but is not kept, or cannot be opened any more.
    """
    answer = await _kept(desk, account, own_key, replay)
    kept = "no" if answer is None else "yes"
    desk.counters.add(metric_names.labelled(metric_names.REPLAYS, kept=kept))
    if answer is None:
        raise _not_kept(replay.request_id)
    ids = [(name, value) for name, value in id_headers if name != _OURS]
    headers = [
        *ids,
        (_OURS, replay.request_id.encode()),
        (b"x-coster-replayed", b"true"),
        *head_of(answer.content_type),
        (b"content-length", str(len(answer.body)).encode()),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
    return answer.status


async def _kept(
    desk: Desk, account: AccountId, own_key: OwnKey, replay: Replay
) -> KeptAnswer | None:
    if not replay.kept:
        return None
    sealed = await desk.ports.accountant.outcome(account, replay.request_id)
    if sealed is None:
        return None
    try:
        return desk.ports.sealer.open(account, own_key, replay.request_id, sealed)
    except UnopenableError:
        desk.counters.add(metric_names.INTERNAL_ERRORS)
        return None


def _not_kept(request_id: RequestId) -> Conflict:
    return Conflict(
        f"The first request with this Idempotency-Key ({request_id}) was answered and charged "
        f"once, but its answer was not kept: it was too long. GET /v1/generations/{request_id} "
        "tells what it cost; use a new key to ask again.",
        None,
        "answer_not_kept",
        None,
        False,
    )
