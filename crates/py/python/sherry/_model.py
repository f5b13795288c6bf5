"""Models: what is written in Rust, with asyncio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, AsyncIterator, Callable, Mapping, Optional, Sequence, TypeVar, Union

from . import _sherry
from ._results import Completion, Piece

if TYPE_CHECKING:
    import os

    from typing_extensions import Self, Unpack

    from ._options import GenerateOptions

#: A text, or token ids.
Prompt = Union[str, Sequence[int]]
#: Messages with "role" and "content".
Messages = Sequence[Mapping[str, Any]]


class Model(_sherry.Model):
    """A language model. It may be used by several threads and tasks at the same time: their generations run together."""

    @classmethod
    def from_pretrained(
        cls,
        path: Union[str, os.PathLike[str]],
        *,
        threads: Optional[int] = None,
        context: Optional[int] = None,
        kv: str = "f16",
        precision: str = "int8",
        head: str = "full",
        sequences: int = 4,
        isa: Optional[str] = None,
        progress: Optional[Callable[[str, Optional[int], Optional[int]], Any]] = None,
    ) -> Self:
        """Opens a Hugging Face folder, a native folder or a GGUF file.

        `threads`: by default one per physical core. `context`: most tokens of prompt and answer, by default the model's,
        at most 4096. `kv`: what keys and values are stored as, "f16", "f32", "q8" or "q4". `precision`: activations in
        products with packed weights, "int8" or "f32" (slow). `head`: "two-stage" makes greedy sampling faster.
        `sequences`: generations that run at the same time; others wait. `progress(what, done, total)` is told how
        loading goes.
        """
        if path is None:
            raise TypeError("from_pretrained needs the path of a model; Model.builtin() has one inside")
        return cls(
            path,
            threads=threads,
            context=context,
            kv=kv,
            precision=precision,
            head=head,
            sequences=sequences,
            isa=isa,
            progress=progress,
        )

    @classmethod
    def builtin(cls, **options: Any) -> Self:
        """The small model inside the package: it tells very short stories in English.

        Options as for `from_pretrained`.
        """
        return cls(None, **options)

    async def agenerate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """`generate` for asyncio; cancelling the task ends the generation."""
        return await _complete(await _start(lambda: self.generate(prompt, stream=True, **options)))

    async def achat(self, messages: Messages, **options: Any) -> Completion:
        """`chat` for asyncio; cancelling the task ends the generation."""
        return await _complete(await _start(lambda: self.chat(messages, stream=True, **options)))

    async def astream(
        self, prompt: Prompt, *, interval: float = 0.02, **options: Unpack[GenerateOptions]
    ) -> AsyncIterator[Piece]:
        """`generate(..., stream=True)` for asyncio; leaving the loop or cancelling the task ends the generation."""
        stream = await _start(lambda: self.generate(prompt, stream=True, interval=interval, **options))
        async for piece in _pieces(stream):
            yield piece

    async def astream_chat(self, messages: Messages, *, interval: float = 0.02, **options: Any) -> AsyncIterator[Piece]:
        """`chat(..., stream=True)` for asyncio; leaving the loop or cancelling the task ends the generation."""
        stream = await _start(lambda: self.chat(messages, stream=True, interval=interval, **options))
        async for piece in _pieces(stream):
            yield piece


_T = TypeVar("_T")


async def _in_thread(call: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(None, call)


async def _start(begin: Callable[[], _sherry.Stream]) -> _sherry.Stream:
    # Tokenizing a long prompt, or waiting for the engine, would hold up the loop.
    return await _in_thread(begin)


async def _complete(stream: _sherry.Stream) -> Completion:
    try:
        return await _in_thread(stream.complete)
    finally:
        # The thread notices within a step of the model.
        stream.close()


async def _pieces(stream: _sherry.Stream) -> AsyncIterator[Piece]:
    try:
        while (piece := await _in_thread(stream.next_piece)) is not None:
            yield piece
    finally:
        stream.close()
