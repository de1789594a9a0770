"""The Macs of one process: a provider each, begun together and ended one by one.

Whoever lives alone ends its process when it must end, because that frees whatever hangs. Who
shares one leaves it: the others go on, and the reconciler lets it begin again.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from actors.process import MAC
from actors.provider import Provider, ProviderConfig
from market.errors import NotFound
from market.types import Event, GatewayId, Job, MachineId, RequestId

OpenProvider = Callable[[ProviderConfig, Callable[[str], None]], Provider]
"""Makes a Mac's provider, which says through the callable why it must end."""

log = logging.getLogger("coster.macs")


class Macs:
    """Keeps at most one provider per Mac. Used from one event loop; call `start` first."""

    def __init__(
        self,
        configs: Sequence[ProviderConfig],
        open_provider: OpenProvider,
        end_process: Callable[[str], None],
    ) -> None:
        self._configs = {config.mac.machine: config for config in configs}
        self._open = open_provider
        self._end_process = end_process
        self._here: dict[MachineId, Provider] = {}
        self._ended: dict[MachineId, asyncio.Future[str]] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Let every Mac begin."""
        await asyncio.gather(*(self.begin(machine) for machine in self._configs))

    async def begin(self, machine: MachineId) -> None:
        """Let a Mac begin that is not here, under a new incarnation; nothing when it is."""
        if machine in self._here:
            return
        config = self._config(machine)
        provider = self._open(config, lambda reason: self._leave(machine, provider, reason))
        self._here[machine] = provider
        self._ended[machine] = asyncio.get_running_loop().create_future()
        context = contextvars.copy_context()
        context.run(MAC.set, config.mac.name)  # whatever it logs says whose it is
        try:
            await asyncio.create_task(provider.start(), context=context)
        except BaseException:
            del self._here[machine]
            raise

    async def wait_forever(self, machine: MachineId) -> str:
        """Ends with the process, or when this Mac has ended: why it did, "" when it was stopped."""
        self._config(machine)
        return await asyncio.shield(self._ended[machine])

    async def stop(self, reason: str) -> None:
        """Fail what runs over to other Macs and free all engines. Idempotent."""
        for machine, provider in list(self._here.items()):
            await provider.stop(reason)
            self._tell(machine, "")

    def describe(self) -> dict[str, object]:
        """What each Mac says of itself, and the code that all of them run."""
        (version,) = {config.code_version for config in self._configs.values()}
        return {"code_version": version, "macs": [self._facts(each) for each in self._configs]}

    # ── the fallback transport ────────────────────────────────────────────────────────

    def events(self, machine: MachineId, gateway: GatewayId) -> AsyncIterator[list[Event]]:
        """A Mac's stream for one gateway. Raises ConnectionError while it is not here."""
        return self._provider(machine).stream_events(gateway)

    async def stream_submit(self, machine: MachineId, gateway: GatewayId, job: Job) -> None:
        self._provider(machine).streams.submit(gateway, job)

    async def stream_cancel(
        self, machine: MachineId, gateway: GatewayId, request_id: RequestId
    ) -> None:
        self._provider(machine).streams.cancel(gateway, request_id)

    async def stream_renew(self, machine: MachineId, gateway: GatewayId) -> bool:
        return self._provider(machine).streams.renew(gateway)

    # ── coming and going ──────────────────────────────────────────────────────────────

    def _config(self, machine: MachineId) -> ProviderConfig:
        config = self._configs.get(machine)
        if config is None:
            raise NotFound(f"{machine} does not live in this process.", "machine")
        return config

    def _provider(self, machine: MachineId) -> Provider:
        self._config(machine)
        provider = self._here.get(machine)
        if provider is None:
            raise ConnectionError(f"{machine} is not here now")
        return provider

    def _leave(self, machine: MachineId, provider: Provider, reason: str) -> None:
        """A Mac must end: with its process where it is alone, else by itself."""
        if len(self._configs) == 1:
            self._end_process(reason)
            return
        if self._here.get(machine) is not provider:
            return
        del self._here[machine]
        log.error("%s leaves: %s", self._config(machine).mac.name, reason)
        task = asyncio.create_task(self._left(machine, provider, reason))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _left(self, machine: MachineId, provider: Provider, reason: str) -> None:
        ended = self._ended[machine]
        try:
            await provider.stop(reason)
        finally:
            if not ended.done():
                ended.set_result(reason)

    def _tell(self, machine: MachineId, reason: str) -> None:
        if not self._ended[machine].done():
            self._ended[machine].set_result(reason)

    def _facts(self, machine: MachineId) -> dict[str, object]:
        provider = self._here.get(machine)
        if provider is not None:
            return provider.describe()
        mac = self._configs[machine].mac
        return {
            "role": "provider",
            "name": mac.name,
            "machine": machine,
            "provider": mac.provider,
            "chip": mac.hardware.chip,
            "state": "unavailable",
            "reason": "it has ended and begins again",
        }
