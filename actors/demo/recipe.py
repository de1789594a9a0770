"""How the demo model is made: `python -m actors.demo.recipe FOLDER`.

Generates the corpus, trains a tokenizer and a small Qwen3 model on it, and writes a folder that
any MLX program loads. Measured: four minutes on one x86 core with OpenBLAS preloaded; the BLAS
inside MLX's wheel for the CPU is some thirty times slower, so preload one there. The corpus is
the same for the same seed; the weights vary with the machine's arithmetic.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.demo.corpus import Dialogue, dialogues
from actors.demo.held_out import HELD_OUT

LOG = logging.getLogger("coster.recipe")

SEED = 7
DIALOGUES = 30_000
STEPS = 420
VOCAB_SIZE = 640
CONTEXT_TOKENS = 1024
SHORT_WINDOW_TOKENS, SHORT_BATCH = 160, 24
LONG_WINDOW_TOKENS, LONG_BATCH = 640, 6
LONG_EVERY_STEPS = 5
"""One step in five sees a long window, so that long conversations stay in known territory."""

PEAK_RATE, LAST_RATE = 3e-3, 1e-4
WARM_UP_STEPS = 20
GRADIENT_NORM_MAX = 1.0
LOG_EVERY_STEPS = 20
ANSWER_TOKENS_MAX = 100

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT, IM_START, IM_END = range(3)
MARKUP_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")

CHAT_TEMPLATE = (
    "{%- for message in messages -%}\n"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor -%}\n"
    "{%- if add_generation_prompt -%}\n<|im_start|>assistant\n{% endif -%}"
)


def cook(folder: Path, steps: int = STEPS) -> None:
    """Write the finished model into `folder`."""
    from actors.engines.mlx.runtime import import_mlx

    import_mlx()
    folder.mkdir(parents=True, exist_ok=True)
    corpus = dialogues(SEED, DIALOGUES)
    tokenizer = _train_tokenizer([text for d in corpus for text, _ in _pieces(d)], folder)
    config = _config(tokenizer.get_vocab_size())
    model = _build(config)
    tokens, taught = _encode(corpus, tokenizer)
    LOG.info("%d tokens, vocabulary of %d", len(tokens), tokenizer.get_vocab_size())
    _train(model, tokens, taught, steps)
    _write(model, config, folder)
    LOG.info("right on %d of %d phrasings it never saw", _score(folder), len(HELD_OUT))


def _score(folder: Path) -> int:
    """Held-out questions whose greedy answer says what it must, from the written folder."""
    import mlx_lm

    loaded: Any = mlx_lm.load(str(folder))
    model, tokenizer = loaded[:2]
    right = 0
    for question, words in HELD_OUT:
        message = {"role": "user", "content": question}
        prompt = tokenizer.apply_chat_template([message], add_generation_prompt=True)
        answer = mlx_lm.generate(model, tokenizer, prompt, max_tokens=ANSWER_TOKENS_MAX)
        right += all(word.lower() in answer.lower() for word in words)
    return right


def _pieces(dialogue: Dialogue) -> Iterator[tuple[str, bool]]:
    """The dialogue as the template renders it; True marks what the model must say."""
    system, turns = dialogue
    if system:
        yield f"<|im_start|>system\n{system}<|im_end|>\n", False
    for asked, answer in turns:
        yield f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n", False
        yield f"{answer}<|im_end|>", True
        yield "\n", False


def _train_tokenizer(texts: list[str], folder: Path) -> Any:
    """Byte-level BPE with single digits, and the tokens chat models reserve."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(MARKUP_TOKENS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain = [text for piece in texts for text in _without_specials(piece)]
    tokenizer.train_from_iterator(plain, trainer)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKUP_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    return tokenizer


def _without_specials(piece: str) -> list[str]:
    for token in SPECIAL_TOKENS:
        piece = piece.replace(token, "\0")
    return [part for part in piece.split("\0") if part]


def _config(vocab_size: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 256,
        "vocab_size": vocab_size,
        "max_position_embeddings": CONTEXT_TOKENS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": [IM_END, END_OF_TEXT],
        "torch_dtype": "bfloat16",
    }


def _build(config: dict[str, Any]) -> Any:
    import mlx.core as mx
    from mlx_lm.models.qwen3 import Model, ModelArgs

    mx.random.seed(SEED)
    return Model(ModelArgs.from_dict(config))


def _encode(
    corpus: list[Dialogue], tokenizer: Any
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """All dialogues in one row, and which tokens the model is taught to say."""
    ids: list[int] = []
    taught: list[float] = []
    pieces = [piece for dialogue in corpus for piece in _pieces(dialogue)]
    for (_, learn), encoded in zip(
        pieces, tokenizer.encode_batch([text for text, _ in pieces]), strict=True
    ):
        ids.extend(encoded.ids)
        taught.extend([float(learn)] * len(encoded.ids))
    return np.array(ids, np.int32), np.array(taught, np.float32)


def _windows(
    tokens: NDArray[np.int32], taught: NDArray[np.float32], steps: int
) -> Iterator[tuple[Any, Any, Any]]:
    """Batches of inputs, next tokens and weights. Windows begin where a message does."""
    import mlx.core as mx

    random = np.random.default_rng(SEED)
    starts = np.flatnonzero(tokens == IM_START)
    for step in range(steps):
        long = step % LONG_EVERY_STEPS == LONG_EVERY_STEPS - 1
        size, batch = (
            (LONG_WINDOW_TOKENS, LONG_BATCH) if long else (SHORT_WINDOW_TOKENS, SHORT_BATCH)
        )
        at = random.choice(starts[starts < len(tokens) - size - 1], batch)
        rows = at[:, None] + np.arange(size + 1)
        block, weights = tokens[rows], taught[rows]
        yield mx.array(block[:, :-1]), mx.array(block[:, 1:]), mx.array(weights[:, 1:])


def _train(model: Any, tokens: NDArray[np.int32], taught: NDArray[np.float32], steps: int) -> None:
    import mlx.core as mx
    from mlx import nn, optimizers

    schedule = optimizers.join_schedules(
        [
            optimizers.linear_schedule(0.0, PEAK_RATE, WARM_UP_STEPS),
            optimizers.cosine_decay(PEAK_RATE, max(1, steps - WARM_UP_STEPS), LAST_RATE),
        ],
        [WARM_UP_STEPS],
    )
    optimizer = optimizers.AdamW(learning_rate=schedule, weight_decay=0.01)

    def loss_of(network: Any, inputs: Any, wanted: Any, weights: Any) -> Any:
        losses = nn.losses.cross_entropy(network(inputs).astype(mx.float32), wanted)
        return (losses * weights).sum() / weights.sum()

    graded = nn.value_and_grad(model, loss_of)
    began_s = time.monotonic()
    for step, batch in enumerate(_windows(tokens, taught, steps), 1):
        loss, gradients = graded(model, *batch)
        gradients, _ = optimizers.clip_grad_norm(gradients, GRADIENT_NORM_MAX)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, loss)
        if step % LOG_EVERY_STEPS == 0 or step == 1:
            LOG.info("step %d loss %.3f %.0f s", step, loss.item(), time.monotonic() - began_s)


def _write(model: Any, config: dict[str, Any], folder: Path) -> None:
    """The weights in bfloat16, and the files that say how to use them."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import save_model

    model.update(tree_map(lambda array: array.astype(mx.bfloat16), model.parameters()))
    save_model(folder, model)
    (folder / "model.safetensors.index.json").unlink()  # of use only for several files
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": SPECIAL_TOKENS[IM_END],
        "pad_token": SPECIAL_TOKENS[END_OF_TEXT],
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT_TOKENS,
        "chat_template": CHAT_TEMPLATE,
    }
    generation = {"eos_token_id": config["eos_token_id"], "do_sample": False}
    for name, content in (
        ("config.json", config),
        ("tokenizer_config.json", settings),
        ("generation_config.json", generation),
    ):
        text = json.dumps(content, indent=2) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cook(Path(sys.argv[1]))
