"""A random model small enough to build in a test, and odd enough for equality to mean something.

Random weights with a tied head repeat one token for ever, and then every schedule agrees with
every other. The head is untied and the weights doubled, so that greedy outputs wander; the
equality suite asserts that they do.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
EOS_IDS = (2, 0)
CONTEXT_TOKENS = 512
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINES = [
    "The old market opens at seven and the carts come down the hill.",
    "Where is the river? Behind the garden, near the stone bridge.",
    "Naïve café: 12 pears, 30 apples, 7 coins — déjà vu! 東京 ✓ 🍎",
]


def build_tiny_model(folder: Path, *, seed: int = 3, scale: float = 2.0, **config: Any) -> Path:
    """Write a random Qwen3 model with tokenizer into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = _write_tokenizer(folder)
    settings = _config(vocab_size) | config
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(EOS_IDS)}))
    _write_weights(folder, settings, seed, scale)
    return folder


def _write_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": CONTEXT_TOKENS,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return int(tokenizer.get_vocab_size())


def _config(vocab_size: int) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 96,
        "vocab_size": vocab_size,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "max_position_embeddings": CONTEXT_TOKENS,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "hidden_act": "silu",
        "eos_token_id": list(EOS_IDS),
        "torch_dtype": "float32",
    }


def _write_weights(folder: Path, settings: dict[str, Any], seed: int, scale: float) -> None:
    from actors.engines.mlx.runtime import import_mlx

    import_mlx()
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import _get_classes, save_model

    mx.random.seed(seed)
    model_class, args_class = _get_classes(settings)
    model = model_class(args_class.from_dict(settings))
    model.update(tree_map(lambda array: array * scale, model.parameters()))
    mx.eval(model.parameters())
    save_model(folder, model)
