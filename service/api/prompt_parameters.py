"""The parameters `prompt`, `negative_prompt` and `prompt_scale`, for models that were trained with words."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from model.request import MAX_PROMPT, MAX_PROMPT_SCALE, PROMPT_PATTERN, clean_prompt

_WORDS = f"one line of at most {MAX_PROMPT} characters, without control characters"
ALLOWED = {"prompt": _WORDS, "negative_prompt": _WORDS}
"""Allowed values of each field, for error messages."""

Words = Annotated[
    str,
    AfterValidator(clean_prompt),
    Field(json_schema_extra={"maxLength": MAX_PROMPT, "pattern": PROMPT_PATTERN}),
]
"""Type of a prompt."""


class PromptParameters(BaseModel):
    """Words that guide a clip."""

    prompt: Words | None = Field(
        default=None,
        examples=["a heavy thunderstorm at night, lightning close by"],
        description="what the clip shows and sounds like, for models that have `text` in `/models`; white space around "
        "it is removed, and an empty one is absent; if absent, the model chooses",
    )
    negative_prompt: Words | None = Field(
        default=None,
        examples=["wind"],
        description="with `prompt`, what the clip moves away from; if absent, away from clips without a prompt",
    )
    prompt_scale: float | None = Field(
        default=None,
        ge=0,
        le=MAX_PROMPT_SCALE,
        description="with `prompt`, how strongly it guides (classifier-free guidance); 1 is without guidance and "
        "faster; if absent, that of the model's `text`",
    )
