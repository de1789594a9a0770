"""The model catalogue: what may be served, at which price. Data, with one rule each.

Prices are integer nano-USD per token, which is the same number as USD per 1M tokens times
1000: $0.015 per 1M is 15 nano-USD per token. The two public price lists the market starts
from name some models alike; each entry has an id of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from market.errors import NotFound
from market.types import ModelId


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model on offer. `context_tokens` bounds prompt + completion.

    `min_memory_gb` is the unified memory a Mac needs to hold it with room to work.
    """

    id: ModelId
    name: str
    publisher: str
    quantization: str
    context_tokens: int
    max_output_tokens: int
    min_memory_gb: int
    price_in_nano: int
    price_out_nano: int
    enabled: bool = True


def _card(
    model_id: str,
    name: str,
    publisher: str,
    quantization: str,
    context: int,
    memory_gb: int,
    price_in: int,
    price_out: int,
) -> ModelCard:
    return ModelCard(
        id=ModelId(model_id),
        name=name,
        publisher=publisher,
        quantization=quantization,
        context_tokens=context,
        max_output_tokens=min(context, 32_768),
        min_memory_gb=memory_gb,
        price_in_nano=price_in,
        price_out_nano=price_out,
    )


DEMO_MODEL = ModelId("coster/demo")

CARDS: tuple[ModelCard, ...] = (
    _card(DEMO_MODEL, "Coster Demo", "coster", "bf16", 1024, 1, 15, 60),
    # The first price list: large mixture and dense models at 8 bit.
    _card("mlx-community/gemma-4-26b-a4b-it-8bit", "Gemma 4 26B", "Google", "8bit",
          131_072, 48, 65, 200),
    _card("qwen3.5-27b-claude-opus-8bit", "Qwen3.5 27B Claude Opus", "Qwen", "8bit",
          131_072, 48, 100, 780),
    _card("qwen3.5-122b-a10b-8bit", "Qwen3.5 122B MoE", "Qwen", "8bit", 131_072, 192, 130, 1040),
    _card("minimax-m2.5-8bit", "MiniMax M2.5", "MiniMax", "8bit", 131_072, 384, 60, 500),
    # The second price list.
    _card("qwen3.5-7b", "Qwen3.5 7B", "Qwen", "4bit", 131_072, 8, 15, 60),
    _card("llama-3.3-8b", "Llama 3.3 8B", "Meta", "4bit", 131_072, 8, 20, 80),
    _card("mistral-nemo-12b", "Mistral Nemo 12B", "Mistral AI", "4bit", 131_072, 12, 30, 120),
    _card("gemma-4-12b", "Gemma 4 12B", "Google", "4bit", 131_072, 12, 35, 140),
    _card("qwen3.5-14b", "Qwen3.5 14B", "Qwen", "4bit", 131_072, 16, 30, 150),
    _card("qwen3.5-27b", "Qwen3.5 27B", "Qwen", "4bit", 131_072, 32, 60, 300),
    _card("llama-3.3-70b", "Llama 3.3 70B", "Meta", "4bit", 131_072, 48, 100, 500),
    _card("deepseek-v3", "DeepSeek V3", "DeepSeek", "4bit", 131_072, 160, 270, 1100),
)  # fmt: skip


class Catalogue:
    """The cards by id, in their published order."""

    def __init__(self, cards: Iterable[ModelCard] = CARDS) -> None:
        self._cards = {card.id: card for card in cards}

    @property
    def cards(self) -> Mapping[ModelId, ModelCard]:
        return MappingProxyType(self._cards)

    def enabled(self) -> list[ModelCard]:
        return [card for card in self._cards.values() if card.enabled]

    def get(self, model: str) -> ModelCard:
        """The enabled card of this id; raises NotFound with the way to list the ids."""
        card = self._cards.get(ModelId(model))
        if card is None or not card.enabled:
            raise NotFound(
                f"The model {model[:120]!r} does not exist here; GET /v1/models lists the ids.",
                "model",
                "model_not_found",
            )
        return card

    def with_card(self, card: ModelCard) -> Catalogue:
        """A catalogue in which this card is present, replacing one of the same id."""
        cards = {**self._cards, card.id: card}
        return Catalogue(cards.values())

    def served_like(self, model: ModelId, *, context_tokens: int, quantization: str) -> Catalogue:
        """A catalogue that also offers a model of the operator's own, at the demo's price."""
        base = replace(
            self._cards[DEMO_MODEL],
            id=model,
            name=model.rsplit("/", 1)[-1],
            publisher="local",
            context_tokens=context_tokens,
            max_output_tokens=min(context_tokens, 32_768),
            quantization=quantization,
        )
        return self.with_card(self._cards.get(model, base))
