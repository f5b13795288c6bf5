"""What calls give back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from ._sherry import PackedMatrix


@dataclass(frozen=True)
class Usage:
    """How many tokens a generation took."""

    prompt_tokens: int
    #: Tokens of the prompt that were computed already for others.
    cached_tokens: int
    #: Tokens generated, an end token included.
    completion_tokens: int


@dataclass(frozen=True)
class Timings:
    """How long a generation took, in seconds."""

    #: Up to the first token.
    prompt: float
    #: From there to the end.
    generation: float


@dataclass(frozen=True)
class Completion:
    """A generated text."""

    text: str
    #: The tokens, an end token included.
    tokens: list[int]
    #: "stop" (an end token or stop string), "length", "context" (it is full), or "cancelled".
    finish_reason: str
    usage: Usage
    timings: Timings

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Piece:
    """A part of a text in the making: whole characters, never empty."""

    text: str
    #: The tokens generated since the piece before.
    tokens: list[int]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a text."""

    value: float
    #: Its standard error; None for texts of a token or two.
    stderr: Optional[float]
    #: Tokens scored.
    tokens: int

    def __float__(self) -> float:
        return self.value


def packed_matrix(arguments: dict[str, Any]) -> PackedMatrix:
    """A packed matrix again after pickling."""
    from ._sherry import PackedMatrix

    return PackedMatrix.from_arrays(**arguments)
