"""What this gateway can serve: each configured model's text side, and the catalogue with it."""

from __future__ import annotations

from actors.engines.factory import served_catalogue, served_facts
from market.catalogue import Catalogue
from market.settings import MarketSettings
from serve_app.served_model import ServedModel, ServedModels


def load_models(settings: MarketSettings) -> tuple[ServedModels, Catalogue]:
    """Read tokenizers and templates; raises InvalidRequest naming the file and the fix."""
    served = ServedModels()
    for source in settings.models:
        facts = served_facts(source)
        served.add(
            ServedModel(
                source.model,
                facts.tokenizer_path,
                chat_template=facts.chat_template,
                context_tokens=facts.context_tokens,
                vocab_size=facts.vocab_size,
                tokens={"bos_token": facts.bos_token, "eos_token": facts.eos_token},
            )
        )
    return served, served_catalogue(settings)
