"""The options of a generation, for type checkers. The extension module reads them (`_sherry.OPTIONS`)."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional, Protocol, Sequence, TypedDict, Union


class StopEvent(Protocol):
    """Something like `threading.Event`."""

    def is_set(self) -> bool: ...


class GenerateOptions(TypedDict, total=False):
    """How to generate. What is not given comes from the model's generation_config.json, then from customary values."""

    #: Most tokens; without it until the model ends its text or the context is full.
    max_new_tokens: Optional[int]
    #: 0: always the likeliest token.
    temperature: Optional[float]
    top_k: Optional[int]
    top_p: Optional[float]
    min_p: Optional[float]
    repetition_penalty: Optional[float]
    presence_penalty: Optional[float]
    frequency_penalty: Optional[float]
    #: Same seed, same text. 0 by default.
    seed: Optional[int]
    #: Strings that end the text; they are not part of it.
    stop: Union[str, Sequence[str], None]
    #: What is added to the logits of some tokens: -100 to 100.
    logit_bias: Optional[Mapping[int, float]]
    #: Called with the token ids so far (uint32 array) and their logits (float32 array) before each token is picked;
    #: returns the logits to pick by, or None after changing them in place.
    logits_processor: Optional[Callable[[Any, Any], Any]]
    #: Ends the generation, from any thread, when it is set.
    stop_event: Optional[StopEvent]
