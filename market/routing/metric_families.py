"""What the router counts, by name: requests, models, Macs and where models live.

Macs appear by their public ids, and never more of them than MACS_SHOWN_MAX, so that a scrape
stays small however many come and go.
"""

from __future__ import annotations

from typing import Final

from market.metrics import Family, counter, gauge

MACS_SHOWN_MAX: Final = 256
"""Macs with figures of their own; a cluster is planned at 250. The others are only counted."""

ROUTER: Final = "coster_router"
MAC: Final = "coster_mac"

FLEET: Final[tuple[Family, ...]] = (
    gauge(f"{ROUTER}_macs", "Macs by health: ok, suspect or lost.", "health"),
    gauge(f"{ROUTER}_macs_standing", "Macs by what is the matter with them.", "standing"),
    gauge(f"{ROUTER}_macs_left_out", "Macs without figures of their own: there are too many."),
    gauge(f"{ROUTER}_breakers", "Macs by breaker: closed, half_open or open.", "state"),
    gauge(f"{ROUTER}_gateways", "Gateways that hold a lease."),
    gauge(f"{ROUTER}_reservations", "Grants that are running."),
    gauge(f"{ROUTER}_queued", "Requests that wait for a slot."),
    gauge(f"{ROUTER}_grants_gini", "How unevenly work is spread over healthy Macs, 0 to 1."),
    gauge(f"{ROUTER}_idle_macs_share", "Share of the healthy Macs that have nothing to do."),
    gauge(f"{ROUTER}_queue_depth", "Requests that wait for a slot.", "model"),
    gauge(f"{ROUTER}_queue_oldest_seconds", "How long the first in the queue waits.", "model"),
    gauge(f"{ROUTER}_model_macs_ready", "Macs that serve a model now.", "model"),
    gauge(f"{ROUTER}_model_slots_free", "Slots a model has free now.", "model"),
    gauge(f"{ROUTER}_copies", "Copies of a model, by the state of their place.", "model", "state"),
)
COUNTS: Final[tuple[Family, ...]] = (
    counter(f"{ROUTER}_granted_total", "Slots granted."),
    counter(f"{ROUTER}_released_total", "Grants given back."),
    counter(f"{ROUTER}_adopted_total", "Running grants taken over after a restart."),
    counter(f"{ROUTER}_attempts_total", "Tries that ended, by how.", "result"),
    counter(f"{ROUTER}_busy_total", "Answers that no slot was free."),
    counter(f"{ROUTER}_queued_total", "Requests that had to wait for a slot."),
    counter(f"{ROUTER}_left_queue_total", "Requests whose client left while they waited."),
    counter(f"{ROUTER}_requeued_total", "Waiting requests asked for again by their gateway."),
    counter(f"{ROUTER}_redelivered_total", "Grants sent again because the first got lost."),
    counter(f"{ROUTER}_unclaimed_total", "Grants dropped because no gateway knew them."),
    counter(f"{ROUTER}_refused_total", "Requests refused, by code.", "code"),
    counter(f"{ROUTER}_rejected_early_total", "Refused at once: their turn would come too late."),
    counter(f"{ROUTER}_ruled_out_total", "Macs that a refused request could not use.", "gate"),
    counter(f"{ROUTER}_kept_free_total", "Macs kept free for a request of several choices."),
    counter(f"{ROUTER}_hedged_total", "Second tries granted beside a slow one."),
    counter(f"{ROUTER}_hedges_refused_total", "Second tries there was no room for."),
    counter(f"{ROUTER}_policy_faults_total", "Terms of the policy that failed and were left out."),
    counter(f"{ROUTER}_gateways_lost_total", "Gateways whose lease ran out."),
    counter(f"{ROUTER}_macs_lost_total", "Macs that went away."),
    counter(f"{ROUTER}_breakers_opened_total", "Times a Mac was given nothing after failures."),
    counter(f"{ROUTER}_loads_total", "Models that became ready on a Mac.", "model"),
    counter(f"{ROUTER}_load_failures_total", "Models that could not be loaded.", "model"),
    counter(f"{ROUTER}_unloads_total", "Models that left a Mac.", "model"),
    counter(f"{ROUTER}_plans_total", "Placement plans that were worked out."),
    counter(f"{ROUTER}_swaps_total", "Models ordered to give way to another one."),
    counter(f"{ROUTER}_records_dropped_total", "Decisions that were never stored: too many wait."),
    counter(f"{ROUTER}_store_errors_total", "Times decisions could not be stored."),
)
MACS: Final[tuple[Family, ...]] = (
    gauge(f"{MAC}_up", "1 while a Mac is heard from.", "provider"),
    gauge(f"{MAC}_in_flight", "Slots that the router has granted on it.", "provider"),
    gauge(f"{MAC}_slots", "Sequences it may decode at once.", "provider"),
    gauge(f"{MAC}_running", "Sequences in its batches now.", "provider"),
    gauge(f"{MAC}_waiting", "Sequences it has taken and not begun.", "provider"),
    gauge(f"{MAC}_memory_used_bytes", "Weights and caches in its memory.", "provider"),
    gauge(f"{MAC}_memory_budget_bytes", "What they may take together.", "provider"),
    gauge(f"{MAC}_cache_bytes", "Prefix cache in its memory.", "provider"),
    gauge(f"{MAC}_decode_tokens_per_second", "As measured lately, whole batch.", "provider"),
    gauge(f"{MAC}_prefill_tokens_per_second", "As measured lately.", "provider"),
    gauge(f"{MAC}_breaker", "0 closed, 1 half open, 2 open.", "provider"),
    gauge(f"{MAC}_fail_ratio", "Of its latest requests that failed.", "provider"),
    counter(f"{MAC}_steps_total", "Decode steps; tokens over steps is the batch.", "provider"),
    counter(f"{MAC}_prompt_tokens_total", "Prompt tokens read.", "provider"),
    counter(f"{MAC}_completion_tokens_total", "Tokens said.", "provider"),
    counter(f"{MAC}_cached_tokens_total", "Prompt tokens found in its cache.", "provider"),
    counter(f"{MAC}_cancelled_total", "Sequences that were stopped.", "provider"),
    counter(f"{MAC}_failed_total", "Sequences that failed.", "provider"),
)
FAMILIES: Final = (*FLEET, *COUNTS, *MACS)
