"""Alembic's entry: migrates the connection it is handed, and nothing else.

There is no ini file and no offline mode. `storage.database.migrate` opens the one writing
connection, holds the folder's lock and passes the connection in.
"""

from __future__ import annotations

from alembic import context

from market.accounting.state_rows import OwnerRow
from storage.state_tables import STATE_TABLES

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=STATE_TABLES[OwnerRow].metadata,
    render_as_batch=True,
    compare_type=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
