"""A made-up past: ended requests in order, and what any question about them must be answered.

The answers are counted from the requests one by one, the slow and plain way, so that they can
be compared with sums that were kept up, folded and read in slices.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from market.accounting.rollups import Use, Work
from market.accounting.rows import Changes, DeliveryRow, RequestRow
from market.types import AccountId, KeyId, MachineId, ModelId, ProviderId, RequestId

NS = 10**9
BEGIN_S = 1_800_000_000 - 1_800_000_000 % 86_400
MODELS = [ModelId("m/a"), ModelId("m/b"), ModelId("é")]
MACHINES = [MachineId(f"mac_{n}") for n in range(4)]
PAYEES = [AccountId(name) for name in ("acct_x", "acct_y", "unclaimed_mac_3")]
OWNERS = [AccountId("acct_ann"), AccountId("acct_bob")]
KEYS = {owner: [KeyId(f"key_{owner}_{n}") for n in range(2)] for owner in OWNERS}


@dataclass(frozen=True)
class Piece:
    """One Mac's share of an answer, or the whole of it."""

    end_s: int
    model: str
    machine: str
    payee: str
    work: Work
    row: RequestRow


@dataclass
class Past:
    """Requests as they ended, with their deliveries."""

    rng: random.Random
    now_ns: int = BEGIN_S * NS
    rows: list[RequestRow] = field(default_factory=list)
    parts: dict[str, list[DeliveryRow]] = field(default_factory=dict)

    def batch(self, count: int, gap_s: float) -> Changes:
        """So many more requests, on average this far apart, for one commit."""
        changes = Changes()
        for _ in range(count):
            self.now_ns += 1 + int(self.rng.expovariate(1 / gap_s) * NS) if gap_s else 1
            row, parts = self._request()
            self.rows.append(row)
            if parts:
                self.parts[row.request_id] = parts
            changes.requests.append(row)
            changes.deliveries += parts
        changes.last_ts_ns = self.now_ns
        return changes

    def _request(self) -> tuple[RequestRow, list[DeliveryRow]]:
        rng, request = self.rng, RequestId(f"req_{len(self.rows)}")
        status = rng.choices(["settled", "expired", "voided"], [8, 1, 1])[0]
        owner = rng.choice(OWNERS)
        several = status != "voided" and rng.random() < 0.3
        macs = rng.randint(1, 4) if several else 0
        parts = [self._part(request, number, number == macs - 1) for number in range(macs)]
        sums = [sum(column) for column in zip(*(self._money(part) for part in parts), strict=True)]
        tokens = [sum(getattr(p, f"{name}_tokens") for p in parts) for name in
                  ("prompt", "completion", "cached")]  # fmt: skip
        if not parts:
            prompt, completion = rng.randrange(900), rng.randrange(400)
            tokens = [prompt, completion, rng.randrange(prompt + 1)]
            cost = prompt + 3 * completion
            fee = rng.randrange(cost + 1)
            sums = [cost, cost - fee, fee, 0, cost, 0]
            if status == "voided":
                tokens, sums = [0, 0, 0], [0] * 6
            elif status == "expired" and rng.random() < 0.5:
                sums = [0] * 6  # at a price of nothing: not charged, so not served
        last = parts[-1] if parts else None
        total_ms = rng.choice([0.0, rng.random() * 9_000, 1e9])
        row = RequestRow(
            request, owner, rng.choice(KEYS[owner]), rng.choice(MODELS), status,
            tokens[0], tokens[1], tokens[2], rng.randrange(tokens[1] + 1),
            *sums, sums[0], 1, 3, 500, 400, 1,
            last.payee if last else None if status == "voided" else rng.choice(PAYEES),
            last.machine if last else rng.choice([*MACHINES, None, MachineId("")]),
            ProviderId("prv"), "stop", 1,
            rng.choice([total_ms * rng.random(), total_ms + 1, -1.0]), total_ms,
            self.now_ns - 1, self.now_ns, 1, len(parts) or None,
        )  # fmt: skip
        return row, parts

    def _part(self, request: RequestId, number: int, last: bool) -> DeliveryRow:
        """The last one finished it and read the prompt; an earlier one may have said nothing."""
        rng = self.rng
        prompt, completion = rng.randrange(500) * last, rng.choice([0, rng.randrange(300)])
        cost = prompt + completion
        fee = rng.randrange(cost + 1)
        return DeliveryRow(
            request, number, rng.choice(PAYEES), rng.choice([*MACHINES, None, MachineId("")]), None,
            prompt, rng.randrange(prompt + 1), completion, 50, 1, 1, 1,
            cost, cost - fee, fee, 0, cost, 0,
        )  # fmt: skip

    def _money(self, part: DeliveryRow) -> tuple[int, ...]:
        return part[12:18]

    # ── the plain truth ───────────────────────────────────────────────────────────────

    def pieces(self) -> Iterator[Piece]:
        """What each Mac did, request by request."""
        for row in self.rows:
            if row.status != "settled" and row.cost_nano == 0:
                continue
            end_s = row.finished_ns // NS
            known = 0.0 <= row.ttft_ms <= row.total_ms <= 86_400_000 and row.total_ms > 0
            first_us = int(row.ttft_ms * 1_000)
            rest_us = int(row.total_ms * 1_000) - first_us
            times = (1, first_us, rest_us, row.completion_tokens) if known else (0, 0, 0, 0)
            if row.deliveries is None:
                work = Work(
                    1, 1, row.prompt_tokens, row.completion_tokens, row.cached_tokens,
                    row.reasoning_tokens, row.cost_nano, row.provider_nano, *times,
                )  # fmt: skip
                yield Piece(end_s, row.model, row.machine or "", str(row.payee), work, row)
                continue
            left = row.reasoning_tokens
            for part in reversed(self.parts[row.request_id]):
                last = part.number == row.deliveries - 1
                if not part.completion_tokens and not last:
                    continue
                reasoning = min(left, part.completion_tokens)
                left -= reasoning
                work = Work(
                    int(last), 1, part.prompt_tokens, part.completion_tokens, part.cached_tokens,
                    reasoning, part.cost_nano, part.provider_nano,
                    *(times if last and row.deliveries == 1 else (0, 0, 0, 0)),
                )  # fmt: skip
                yield Piece(
                    end_s, row.model, part.machine or "", part.payee, work, part.as_request(row)
                )

    def work(
        self,
        begin_s: int,
        end_s: int,
        by: Sequence[str],
        bucket_s: int,
        wanted: Callable[[Piece], bool],
    ) -> dict[tuple[object, ...], Work]:
        """Sums by bucket and the named attributes of a piece."""
        found: defaultdict[tuple[object, ...], list[Work]] = defaultdict(list)
        for piece in self.pieces():
            if begin_s <= piece.end_s < end_s and wanted(piece):
                start_s = piece.end_s // bucket_s * bucket_s if bucket_s else 0
                key = (start_s, *(getattr(piece, name) if name in by else "" for name in
                                  ("model", "machine", "payee")))  # fmt: skip
                found[key].append(piece.work)
        return {key: Work(*map(sum, zip(*works, strict=True))) for key, works in found.items()}

    def use(
        self,
        begin_s: int,
        end_s: int,
        by: Sequence[str],
        bucket_s: int,
        wanted: Callable[[RequestRow], bool],
    ) -> dict[tuple[object, ...], Use]:
        """Sums by bucket and the named columns of a request."""
        found: defaultdict[tuple[object, ...], list[Use]] = defaultdict(list)
        for row in self.rows:
            at_s = row.finished_ns // NS
            if begin_s <= at_s < end_s and wanted(row):
                start_s = at_s // bucket_s * bucket_s if bucket_s else 0
                key = (start_s, *(getattr(row, name) if name in by else "" for name in
                                  ("model", "key_id", "owner")))  # fmt: skip
                served = row.status == "settled" or row.cost_nano > 0
                found[key].append(Use(1, 0, *row[5:9], row.cost_nano) if served else Use(0, 1))
        return {key: Use(*map(sum, zip(*uses, strict=True))) for key, uses in found.items()}
