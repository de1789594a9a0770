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
GROUP_SIZE = 32
"""Weights that share a scale, where they are quantised."""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINES = [
    "The old market opens at seven and the carts come down the hill.",
    "Where is the river? Behind the garden, near the stone bridge.",
    "Naïve café: 12 pears, 30 apples, 7 coins — déjà vu! 東京 ✓ 🍎",
]


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    },
    "gemma4": {
        "model_type": "gemma4",
        "architectures": ["Gemma4ForConditionalGeneration"],
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "sliding_window": 64,
        "global_head_dim": 32,
        "num_global_key_value_heads": 1,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 0,
        "use_double_wide_mlp": False,
    },
    "qwen3_5": {
        "model_type": "qwen3_5",
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "num_hidden_layers": 4,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "full_attention_interval": 4,
        "rope_parameters": {
            "type": "default",
            "mrope_section": [1, 1, 0],
            "rope_theta": 10000,
            "partial_rotary_factor": 0.25,
        },
    },
}
"""What a config says beyond Qwen3's: grouped attention alone, experts, windows, recurrence."""

NESTED = ("gemma4", "qwen3_5")
"""Those whose config keeps what concerns text in a part of its own."""


def build_tiny_model(
    folder: Path,
    *,
    seed: int = 3,
    scale: float = 2.0,
    architecture: str = "qwen3",
    bits: int | None = None,
    **config: Any,
) -> Path:
    """Write a random model with tokenizer into `folder` and return it; quantised with `bits`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab_size = _write_tokenizer(folder)
    settings = _config(vocab_size) | ARCHITECTURES[architecture] | config
    if architecture in NESTED:
        settings = settings | {"text_config": dict(settings)}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(EOS_IDS)}))
    settings = _write_weights(folder, settings, seed, scale, bits)
    (folder / "config.json").write_text(json.dumps(settings))
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


def _write_weights(
    folder: Path, settings: dict[str, Any], seed: int, scale: float, bits: int | None
) -> dict[str, Any]:
    """Write the weights; returns the settings, with how they are quantised."""
    from actors.engines.mlx.runtime import import_mlx

    import_mlx()
    import mlx.core as mx
    from mlx.utils import tree_map_with_path
    from mlx_lm.utils import _get_classes, quantize_model, save_model

    mx.random.seed(seed)
    model_class, args_class = _get_classes(settings)
    model = model_class(args_class.from_dict(json.loads(json.dumps(settings))))
    dtype = getattr(mx, settings["torch_dtype"])
    may_cast = getattr(model, "cast_predicate", lambda _: True)
    model.update(
        tree_map_with_path(
            lambda path, array: (array * scale).astype(dtype if may_cast(path) else array.dtype),
            model.parameters(),
        )
    )
    if bits is not None:
        model, settings = quantize_model(model, settings, GROUP_SIZE, bits)
    mx.eval(model.parameters())
    save_model(folder, model)
    return settings
