"""The engine over MLX, and the only package that imports it. Read engine, thread, batch."""
