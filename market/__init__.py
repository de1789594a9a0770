"""The rules of the market: pure, deterministic, importable from anywhere.

Read in this order: `types` (what a job, an event and a Mac are), `messages` (what the
actors say to each other), `ports` (the seams where something real is plugged in). After
that each file is one rule: money, pricing, ledger, admission, policy, provider state.

This room imports the standard library and numpy (scipy in the planner). It never reads a
clock, the environment, a file or global randomness: time and seeds are parameters.
"""
