"""Traces of every published format, a few lines each, and how they are played."""

from __future__ import annotations

import json
from pathlib import Path

from simulator.records import Arrival
from simulator.workloads.rows import Notes
from tests.support.workload_kit import drawn

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:06.9799600,110,27
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 02:00:01.017335+02:00,2399,6
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
BURSTGPT_SESSIONS = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "19440110.0,1722ac82,43,GPT-4,906,446,1352,Conversation log\n"
    "19440161.0,1722ac82,2,ChatGPT,36,29,65,Conversation log\n"
)
VIDUR = """,arrived_at,num_prefill_tokens,num_decode_tokens
0,0.0,300,20
1,1.5,40,5
"""
MOONCAKE = """{"timestamp": 0, "input_length": 1100, "output_length": 50, "hash_ids": [0, 1, 2]}
{"timestamp": 3052, "input_length": 1600, "output_length": 60, "hash_ids": [0, 1, 7, 8]}
"""


def workload(path: Path, extra: str = "") -> str:
    return f'[[workload]]\nkind = "trace"\nfile = {json.dumps(str(path))}\n{extra}\n'


def played(path: Path, extra: str = "", notes: Notes | None = None) -> list[Arrival]:
    return drawn(workload(path, extra), 100_000, notes=notes)


def brief(requests: list[Arrival]) -> list[tuple[float, int, int]]:
    return [(round(a.at_s, 6), a.prompt_tokens, a.output_tokens) for a in requests]
