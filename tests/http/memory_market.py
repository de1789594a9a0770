"""A whole small market in memory behind the door's ports: exact, scriptable, no actors.

The tokenizer is one token per character, so counts in tests can be worked out by hand.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from market.catalogue import DEMO_MODEL, Catalogue
from market.errors import (
    Conflict,
    MarketError,
    NotFound,
    PaymentRequired,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from market.messages import (
    AccountantOp,
    AccountantReply,
    Admit,
    Admitted,
    Busy,
    Checkpoint,
    Endpoint,
    Funding,
    Grant,
    KeyRecord,
    ModelAvailability,
    Outcome,
    RateState,
    ResolveKey,
    RouteRequest,
    Settle,
    Settled,
    Void,
    Voided,
)
from market.types import (
    AccountId,
    Event,
    GatewayId,
    Job,
    JobFailure,
    KeyId,
    MachineId,
    ModelId,
    ProviderId,
    RequestId,
    TokenLogprob,
)
from serve_app.app import GatewayApp, create_app
from serve_app.limits import Limits
from serve_app.ports import GatewayPorts
from serve_app.served_model import ServedModel, ServedModels

ADA = AccountId("acct_ada")
MAC_OWNER = AccountId("acct_owner")
TEN_DOLLARS = 10_000_000_000
TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'refuse me' %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def write_tokenizer(path: Path) -> Path:
    """A tokenizer.json with one token per printable ASCII character."""
    characters = [chr(code) for code in range(32, 127)]
    vocab = {"<unk>": 0, **{character: at + 1 for at, character in enumerate(characters)}}
    path.write_text(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "normalizer": None,
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"Regex": ""},
                    "behavior": "Isolated",
                    "invert": False,
                },
                "post_processor": None,
                "decoder": {"type": "Fuse"},
                "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
            }
        )
    )
    return path


def hash_key(secret: str) -> bytes | None:
    """The keyed hash of a well-formed test key."""
    return hashlib.sha256(secret.encode()).digest() if secret.startswith("sk-test-") else None


@dataclass
class Account:
    credit_nano: int
    earnings_nano: int = 0
    held_nano: int = 0


@dataclass
class Row:
    """A request as the ledger keeps it; satisfies `UsageView`."""

    request_id: RequestId
    owner: AccountId
    model: ModelId
    key_id: KeyId
    held_nano: int
    prompt_tokens: int
    status: str = "held"
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int = 0
    provider: str | None = None
    finish_reason: str = ""
    attempts: int = 0
    ttft_ms: float = 0.0
    total_ms: float = 0.0
    created_ns: int = 0
    finished_ns: int = 0


@dataclass
class Money:
    """What `BalanceView` shows."""

    promo_nano: int
    cash_nano: int
    earnings_nano: int
    held_nano: int


class Accountant:
    """Holds, settles and voids exactly, in memory; `away` makes it unreachable."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.accounts = {ADA: Account(TEN_DOLLARS), MAC_OWNER: Account(0)}
        self.keys: dict[bytes, KeyRecord] = {}
        self.rows: dict[RequestId, Row] = {}
        self.ops: list[AccountantOp] = []
        self.away = 0
        self.away_for: type | None = None
        self.rate_limited = False
        self.tier = "free"
        self.before: Callable[[AccountantOp], None] = lambda op: None
        self.made = 0

    def add_key(self, secret: str, account: AccountId, *scopes: str) -> KeyRecord:
        self.made += 1
        record = KeyRecord(
            KeyId(f"key_{self.made}"),
            account,
            frozenset(scopes),
            self.tier,
            "test",
            secret[:12],
            1_700_000_000.0,
        )
        digest = hash_key(secret)
        assert digest is not None
        self.keys[digest] = record
        return record

    async def op(self, op: AccountantOp) -> AccountantReply:
        await asyncio.sleep(0)
        self.before(op)
        if self.away and (self.away_for is None or isinstance(op, self.away_for)):
            self.away -= 1
            raise Unavailable("The accountant is away.", None, "accountant_away", 1.0)
        self.ops.append(op)
        if isinstance(op, ResolveKey):
            return self._key(op.key_hash)
        if isinstance(op, Admit):
            return self._admit(op)
        if isinstance(op, Settle):
            return self._settle(op)
        if isinstance(op, Void):
            return self._void(op)
        assert isinstance(op, Checkpoint)
        return None

    def _key(self, key_hash: bytes) -> KeyRecord:
        record = self.keys.get(key_hash)
        if record is None or record.revoked_s is not None:
            raise Unauthenticated("This key is not valid.", None, "invalid_api_key")
        return record

    def _admit(self, op: Admit) -> Admitted:
        record = self._key(op.key_hash)
        if self.rate_limited:
            raise RateLimited("60 requests per minute.", None, "requests", 7.2)
        card = self.catalogue.get(op.model)
        account = self.accounts[record.account]
        fixed = op.prompt_tokens * card.price_in_nano
        free = account.credit_nano - account.held_nano
        affordable = (free - fixed) // (card.price_out_nano * op.n)
        wanted = min(op.max_tokens_cap, affordable) if op.max_tokens is None else op.max_tokens
        if wanted < 1 or wanted > affordable:
            raise PaymentRequired(
                f"The balance affords {max(0, affordable)} tokens.", "max_tokens", "balance"
            )
        held = fixed + wanted * op.n * card.price_out_nano
        account.held_nano += held
        self.rows[op.request_id] = Row(
            op.request_id,
            record.account,
            op.model,
            record.key_id,
            held,
            op.prompt_tokens,
            created_ns=time.time_ns(),
        )
        return Admitted(
            op.request_id,
            record.account,
            record.key_id,
            wanted,
            Funding(held, 0),
            card.price_in_nano,
            card.price_out_nano,
            RateState(60, 59, 1.0, 200_000, 190_000, 86_400.0),
        )

    def _settle(self, op: Settle) -> Settled:
        row = self.rows.get(op.request_id)
        if row is None:
            raise NotFound("No such hold.", None, "no_hold")
        if row.status not in ("held", "settled"):
            raise Conflict("It has ended already.", None, "request_ended")
        card = self.catalogue.get(row.model)
        usage = op.usage
        cost = (
            usage.prompt_tokens * card.price_in_nano + usage.completion_tokens * card.price_out_nano
        )
        if row.status == "held":
            assert cost <= row.held_nano
            account = self.accounts[row.owner]
            account.held_nano -= row.held_nano
            account.credit_nano -= cost
            self.accounts[op.payee].earnings_nano += cost
            row.status, row.cost_nano = "settled", cost
            row.completion_tokens = usage.completion_tokens
            row.cached_tokens = usage.cached_tokens
            row.provider, row.finish_reason = op.provider, op.finish_reason
            row.attempts, row.finished_ns = op.attempts, time.time_ns()
        return Settled(op.request_id, row.cost_nano, row.cost_nano, 0, usage, time.time())

    def _void(self, op: Void) -> Voided:
        row = self.rows.get(op.request_id)
        if row is None:
            raise NotFound("No such hold.", None, "no_hold")
        if row.status == "held":
            self.accounts[row.owner].held_nano -= row.held_nano
            row.status, row.finish_reason = "voided", op.reason
        elif row.status != "voided":
            raise Conflict("It has ended already.", None, "request_ended")
        return Voided(op.request_id)

    async def create_account(self, name: str) -> tuple[AccountId, KeyRecord, str]:
        account = AccountId(f"acct_{len(self.accounts)}")
        self.accounts[account] = Account(TEN_DOLLARS)
        secret = f"sk-test-management-{account}"
        return account, self.add_key(secret, account, "keys", "billing:read"), secret

    async def create_key(
        self, account: AccountId, name: str, scopes: frozenset[str], expires_s: float | None
    ) -> tuple[KeyRecord, str]:
        secret = f"sk-test-made-{self.made}"
        record = replace(self.add_key(secret, account, *scopes), name=name)
        digest = hash_key(secret)
        assert digest is not None
        self.keys[digest] = record
        return record, secret

    async def list_keys(self, account: AccountId) -> list[KeyRecord]:
        return [record for record in self.keys.values() if record.account == account]

    async def revoke_key(self, account: AccountId, key_id: KeyId) -> KeyRecord:
        for digest, record in self.keys.items():
            if record.key_id == key_id and record.account == account:
                self.keys[digest] = replace(record, revoked_s=time.time())
                return self.keys[digest]
        raise NotFound("No such key.", "key_id", "no_key")

    async def balance(self, account: AccountId) -> Money:
        mine = self.accounts[account]
        return Money(mine.credit_nano - mine.held_nano, 0, mine.earnings_nano, mine.held_nano)

    async def usage(self, account: AccountId, limit: int) -> Sequence[Row]:
        mine = [row for row in self.rows.values() if row.owner == account and row.cost_nano]
        return mine[::-1][:limit]

    async def generation(self, account: AccountId, request_id: RequestId) -> Row:
        row = self.rows.get(request_id)
        if row is None or row.owner != account:
            raise NotFound("No such request of this account.", "request_id", "no_request")
        return row


@dataclass
class Mac:
    """One scripted Mac. `script` maps a job to its events; None entries are pauses."""

    name: str
    slots: int = 64
    running: int = 0
    fails: list[JobFailure] = field(default_factory=list)
    refuses: Exception | None = None
    pace_s: float = 0.0
    silent: bool = False
    fail_after: int | None = None
    cancelled: list[RequestId] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    @property
    def machine(self) -> MachineId:
        return MachineId(f"mac_{self.name}")


class Fleet:
    """Router and transport in one: grants slots of its Macs and runs their echo jobs.

    A Mac answers with the characters of the prompt, over and over, up to `max_tokens` or
    24 tokens, then stops.
    """

    LENGTH = 24

    def __init__(self, *macs: Mac) -> None:
        self.macs = list(macs) or [Mac("a"), Mac("b"), Mac("c")]
        self.outcomes: list[Outcome] = []
        self.requests: list[RouteRequest] = []
        self.grants = 0
        self.error: MarketError | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.stopped: set[tuple[RequestId, MachineId]] = set()
        self.produced: dict[RequestId, int] = {}

    async def route(self, request: RouteRequest) -> Grant | Busy:
        self.requests.append(request)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        ends_s = time.monotonic() + request.deadline_s
        while True:
            mac = self._free(request)
            if mac is not None:
                mac.running += request.n
                self.grants += 1
                return Grant(
                    request.request_id,
                    request.attempt,
                    mac.machine,
                    ProviderId(f"prv_{mac.name}"),
                    MAC_OWNER,
                    Endpoint("127.0.0.1", 1),
                    1.0,
                )
            if request.funding is None:
                return Busy(request.request_id, 1)
            if time.monotonic() > ends_s:
                raise Unavailable("No slot came free.", None, "queue_deadline", 2.0)
            await asyncio.sleep(0.005)

    def _free(self, request: RouteRequest) -> Mac | None:
        for mac in self.macs:
            fits = mac.running + request.n <= mac.slots
            if mac.machine not in request.excluded and fits:
                return mac
        return None

    def report(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        asked = [r for r in self.requests if r.request_id == outcome.request_id]
        self._mac(outcome.machine).running -= asked[-1].n

    def availability(self) -> list[ModelAvailability]:
        free = sum(mac.slots - mac.running for mac in self.macs)
        return [ModelAvailability(DEMO_MODEL, len(self.macs), len(self.macs), free, 0)]

    def _mac(self, machine: MachineId) -> Mac:
        return next(mac for mac in self.macs if mac.machine == machine)

    async def submit(self, grant: Grant, job: Job, on_event: Callable[[Event], None]) -> None:
        mac = self._mac(grant.machine)
        mac.jobs.append(job)
        if mac.refuses is not None:
            raise mac.refuses
        task = asyncio.create_task(self._run(mac, job, on_event))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def cancel(self, grant: Grant, request_id: RequestId) -> None:
        self._mac(grant.machine).cancelled.append(request_id)
        self.stopped.add((request_id, grant.machine))

    async def _run(self, mac: Mac, job: Job, on_event: Callable[[Event], None]) -> None:
        if mac.silent:
            return
        if mac.fails:
            failure = mac.fails.pop(0)
            on_event(Event(job.request_id, 0, (), "", 0, error=failure))
            return
        length = min(job.max_tokens, self.LENGTH)
        reason = "stop" if length == self.LENGTH else "length"
        for at in range(length):
            if (job.request_id, mac.machine) in self.stopped:
                return
            if mac.fail_after == at:
                lost = JobFailure("lost", "The Mac is gone.")
                on_event(Event(job.request_id, 0, (), "", at, error=lost))
                return
            await asyncio.sleep(mac.pace_s)
            token = job.prompt_ids[at % len(job.prompt_ids)]
            text = chr(31 + token)
            logprobs: tuple[TokenLogprob, ...] = ()
            if job.top_logprobs is not None:
                top = tuple((token, text, -0.5) for _ in range(job.top_logprobs))
                logprobs = (TokenLogprob(token, text, -0.5, top),)
            for index in range(job.n):
                finish = reason if at == length - 1 else None
                on_event(
                    Event(
                        job.request_id,
                        index,
                        (token,),
                        text,
                        at + 1,
                        finish,  # type: ignore[arg-type]
                        logprobs=logprobs,
                    )
                )
            self.produced[job.request_id] = (at + 1) * job.n


class Clock:
    """The real clock, running `speed` times as fast for deadlines."""

    def __init__(self, speed: float = 1.0) -> None:
        self._speed = speed

    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic() * self._speed


class Readiness:
    """Says what it is told to."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def problems(self) -> list[str]:
        return self.said


class Market:
    """The app and everything behind it."""

    KEY = "sk-test-ada"
    MANAGEMENT = "sk-test-ada-management"

    def __init__(self, folder: Path, limits: Limits | None = None, *macs: Mac) -> None:
        self.catalogue = Catalogue()
        self.accountant = Accountant(self.catalogue)
        self.fleet = Fleet(*macs)
        self.readiness = Readiness()
        self.funded_nano = TEN_DOLLARS
        model = ServedModel(
            DEMO_MODEL,
            write_tokenizer(folder / "tokenizer.json"),
            chat_template=TEMPLATE,
            context_tokens=1024,
        )
        self.accountant.add_key(self.KEY, ADA, "inference", "billing:read")
        self.accountant.add_key(self.MANAGEMENT, ADA, "keys", "billing:read")
        self.app: GatewayApp = create_app(
            GatewayPorts(
                gateway=GatewayId("gw_test"),
                accountant=self.accountant,
                router=self.fleet,
                providers=self.fleet,
                models=ServedModels([model]),
                catalogue=self.catalogue,
                clock=Clock(),
                readiness=self.readiness,
                hash_key=hash_key,
            ),
            limits,
        )

    @property
    def ada(self) -> Account:
        return self.accountant.accounts[ADA]

    def fund(self, nano: int) -> None:
        """Let Ada start with this much instead of ten dollars."""
        self.funded_nano = self.ada.credit_nano = nano

    def nothing_is_left(self) -> bool:
        """Books closed: no hold, no slot, and not a nano-USD lost."""
        spent = self.funded_nano - self.ada.credit_nano
        return (
            self.ada.held_nano == 0
            and all(mac.running == 0 for mac in self.fleet.macs)
            and len(self.fleet.outcomes) == self.fleet.grants
            and spent == self.accountant.accounts[MAC_OWNER].earnings_nano
        )
