"""Runs as tasks: one, many in pairs, here or in other processes; compared and verified."""
