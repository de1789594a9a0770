"""The text side of a model at the gateway: its chat template and tokenizer, no weights.

The template comes from the model's publisher, so it runs in a sandbox. Nothing here loads
an engine: a gateway must start in a second and hold many models.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from market.errors import InvalidRequest
from market.types import ModelId


class TemplateRefused(TemplateError):
    """The template called raise_exception; its message is the publisher's own."""


def _raise_exception(message: object) -> NoReturn:
    raise TemplateRefused(str(message)[:300])


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _strftime_now(pattern: str) -> str:
    return time.strftime(pattern, time.gmtime())


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment chat templates are written for: trimmed blocks and three helpers."""
    extensions: list[type[Extension]] = [loopcontrols]
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=extensions
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ServedModel:
    """One model's template and tokenizer. Implements `ServedModelPort`; thread-safe.

    `tokens` holds the template's variables such as `bos_token` and `eos_token`.
    `vocab_size` is the number of logits, which may exceed the tokenizer's own.
    """

    def __init__(
        self,
        model: ModelId,
        tokenizer_json: Path,
        *,
        chat_template: str | None,
        context_tokens: int,
        vocab_size: int | None = None,
        tokens: Mapping[str, str] | None = None,
    ) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        except Exception as error:  # the library raises nothing more specific
            raise InvalidRequest(
                f"{tokenizer_json.name} of {model} cannot be read: {type(error).__name__}; "
                "the model folder needs a tokenizer.json of the tokenizers library."
            ) from error
        self._tokenizer.no_truncation()  # a prompt is never cut silently
        self._tokenizer.no_padding()
        self.model = model
        self.context_tokens = context_tokens
        self.vocab_size = vocab_size or self._tokenizer.get_vocab_size()
        self._tokens = dict(tokens or {})
        try:
            self._template = (
                None if chat_template is None else _environment().from_string(chat_template)
            )
        except TemplateError as error:
            raise InvalidRequest(
                f"The chat template of {model} cannot be read: {type(error).__name__}."
            ) from error

    def chat(self, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Token ids of the conversation, ready for the assistant's turn."""
        if self._template is None:
            raise InvalidRequest(
                f"{self.model} has no chat template; use /v1/completions.",
                "model",
                "no_chat_template",
            )
        try:
            text = self._template.render(
                messages=messages, add_generation_prompt=True, tools=None, **self._tokens
            )
        except TemplateRefused as error:
            raise InvalidRequest(
                f"The chat template of {self.model} refuses these messages: {error.message}",
                "messages",
                "chat_template",
            ) from None
        except (
            TemplateError,
            TypeError,
            ValueError,
            KeyError,
            AttributeError,
            IndexError,
        ) as error:
            # The text of these may quote a message: only the kind is told.
            raise InvalidRequest(
                f"The chat template of {self.model} cannot render these messages "
                f"({type(error).__name__}).",
                "messages",
                "chat_template",
            ) from None
        return self._encode(text, add_special_tokens=False)

    def text(self, prompt: str) -> tuple[int, ...]:
        """Token ids of plain text, with the tokenizer's own special tokens."""
        return self._encode(prompt, add_special_tokens=True)

    def _encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)


class ServedModels:
    """The models of this gateway by id. Implements `ModelsPort`."""

    def __init__(self, models: Sequence[ServedModel] = ()) -> None:
        self._models = {model.model: model for model in models}

    def add(self, model: ServedModel) -> None:
        self._models[model.model] = model

    def get(self, model: ModelId) -> ServedModel | None:
        return self._models.get(model)
