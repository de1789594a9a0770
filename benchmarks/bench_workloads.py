"""Requests for the lab: how many a second are drawn or read, beside what making the record takes.

Nothing is simulated; requests are made and forgotten. Seconds are CPU time of this process, so
that a busy machine changes little. A trace is written first and read back, plain and packed.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import time
import tomllib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.figures import Report, Spread, read_options
from market.types import ModelId
from simulator.records import Arrival
from simulator.setup.tables import Table
from simulator.streams import Streams
from simulator.workloads.parsing import parse
from simulator.workloads.source import arrivals
from simulator.workloads.trace_rows import json_lines, row_of

MODELS = (ModelId("qwen3.5-7b"), ModelId("gemma-4-12b"))
REQUESTS_PER_S_ASSUMED = 60_000
"""What a second of a round is filled with at least."""
TRACE_ROWS = 20_000

TABLES = 'prompt = { table = "azure_2023_conv" }\noutput = { table = "azure_2023_conv" }\n'
PLAIN = "[[workload]]\nrate_per_s = 50\n" + TABLES
CASES = {
    "Poisson, lengths from tables": PLAIN,
    "two workloads of it": PLAIN + PLAIN.replace("[[workload]]", '[[workload]]\nname = "b"'),
    "200 bursty clients, a day, drift": PLAIN
    + 'arrivals = { kind = "gamma", cv = 1 }\nconsumers = { count = 200, cv = 1.1, cv_90 = 4.5 }\n'
    + "day = {}\ndrift = { every_s = 600 }\n",
    "conversations of 4 turns": PLAIN + "sessions = { turns = 4 }\n",
    "system prompts of 3,000 tokens": PLAIN + "prefixes = { count = 3, tokens = 3_000 }\n",
}

AIMS = {"Poisson, lengths from tables": "≥ 300,000"}


def main() -> None:
    asked = read_options(str(__doc__).split("\n", maxsplit=1)[0], rounds=3, seconds=2.0)
    count = int(asked.seconds * REQUESTS_PER_S_ASSUMED)
    report = Report("workloads", f"requests per second of CPU, {count:,} a round")
    rates = {"the record alone": [_rate(_records(count)) for _ in range(asked.rounds)]}
    for name, text in CASES.items():
        rates[name] = [_rate(_drawn(text, count)) for _ in range(asked.rounds)]
    with tempfile.TemporaryDirectory(prefix="coster-bench-") as folder:
        for name, path in _traces(Path(folder)).items():
            text = f'[[workload]]\nkind = "trace"\nfile = {json.dumps(str(path))}\n'
            rates[name] = [_rate(_drawn(text, TRACE_ROWS)) for _ in range(asked.rounds)]
    record = Spread.of(rates["the record alone"]).median
    for name, found in rates.items():
        report.row(name, Spread.of(found), "/s", AIMS.get(name, ""))
        if name != "the record alone":
            ratio = Spread.of([each / record for each in found])
            report.row(f"{name}, to the record alone", ratio, "×")
    report.show()


def _rate(requests: Callable[[], Iterator[Arrival]]) -> float:
    start_s = time.process_time()
    last = deque(requests(), maxlen=1)
    return (last[0].number + 1) / (time.process_time() - start_s)


def _records(count: int) -> Callable[[], Iterator[Arrival]]:
    return lambda: (Arrival(n, 1.0, "c", MODELS[0], 10, 10, 10) for n in range(count))


def _drawn(text: str, count: int) -> Callable[[], Iterator[Arrival]]:
    table = Table(tomllib.loads(text), "bench")
    workloads = parse(table.tables("workload"), MODELS)
    return lambda: arrivals(workloads, Streams(1), requests=count)


def _traces(folder: Path) -> dict[str, Path]:
    """The same requests as Vidur's CSV, and as conversations in our own format, packed."""
    csv, own = folder / "trace.csv", folder / "trace.jsonl.gz"
    with csv.open("w") as file:
        file.write("arrived_at,num_prefill_tokens,num_decode_tokens\n")
        for a in _drawn(PLAIN, TRACE_ROWS)():
            file.write(f"{a.at_s},{a.prompt_tokens},{a.output_tokens}\n")
    with gzip.open(own, "wt", compresslevel=1) as packed:
        talks = _drawn(CASES["conversations of 4 turns"], TRACE_ROWS)()
        packed.writelines(json_lines(map(row_of, talks)))
    return {"a trace as CSV": csv, "conversations as our own lines, gzip": own}


if __name__ == "__main__":
    main()
