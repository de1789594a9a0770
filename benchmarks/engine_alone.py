"""BatchGenerator alone: the most the engine's own library does in one process, nothing else.

The batch is kept full: when an answer ends, the next chat joins. Tokens are drawn greedily and
thrown away. Run as a script with a model folder.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from benchmarks.chats import CLIENTS, TOKENS_MAX, prompts
from benchmarks.worker import serve_rounds


class Alone:
    """A loaded model and a generator that is never empty during a round."""

    def __init__(self, folder: str) -> None:
        import mlx_lm

        self._model, self._tokenizer = mlx_lm.load(folder)[:2]
        self._prompts = [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": words}], add_generation_prompt=True
            )
            for words in prompts()
        ]

    def play(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Tokens a second over `asked["seconds"]`."""
        from mlx_lm.generate import BatchGenerator

        generator = BatchGenerator(
            self._model,
            stop_tokens=[[token] for token in self._tokenizer.eos_token_ids],
            completion_batch_size=CLIENTS,
            prefill_batch_size=CLIENTS,
        )
        left = deque(self._prompts)
        generator.insert(
            [left.popleft() for _ in range(CLIENTS)], max_tokens=[TOKENS_MAX] * CLIENTS
        )
        tokens = ended = 0
        started_s = time.perf_counter()
        while (elapsed_s := time.perf_counter() - started_s) < asked["seconds"]:
            _, answers = generator.next()
            tokens += len(answers)
            finished = sum(1 for answer in answers if answer.finish_reason is not None)
            ended += finished
            for _ in range(finished):
                if not left:
                    left.extend(self._prompts)
                generator.insert([left.popleft()], max_tokens=[TOKENS_MAX])
        generator.close()
        return {
            "tokens": tokens,
            "streams": ended,
            "tokens_per_s": tokens / elapsed_s,
            "tokens_per_stream": tokens / max(1, ended),
        }


def main() -> None:
    serve_rounds(Alone(sys.argv[1]).play)


if __name__ == "__main__":
    main()
