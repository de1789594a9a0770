"""What is asked of a simulated market, and when.

Read first: `spec.py`, what a workload is made of; `source.py`, how its requests come out in
order; `trace_rows.py`, the recorded kind. `docs/workloads.md` has every key of a `[[workload]]`.
"""
