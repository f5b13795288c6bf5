"""The part of the package that is written in Rust."""

import os
from typing import Any, Callable, Literal, Mapping, Optional, Sequence, Union, final, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import Self, Unpack

from ._options import GenerateOptions
from ._results import Completion, Perplexity, Piece

__version__: str
OPTIONS: list[str]

_Path = Union[str, os.PathLike[str]]
_Prompt = Union[str, Sequence[int], npt.NDArray[Any]]
_Json = Mapping[str, Any]
_Progress = Optional[Callable[[str, Optional[int], Optional[int]], Any]]
_Format = Literal["sherry-1.25", "ternary-1.67", "ternary-2", "binary-1"]
_Scale = Literal["row", "group"]
_Quad = Literal["contiguous", "stride16"]
_Precision = Literal["int8", "f32"]

class SherryError(Exception): ...

@final
class Stream:
    @property
    def result(self) -> Completion: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Piece: ...
    def next_piece(self) -> Optional[Piece]: ...
    def complete(self) -> Completion: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exception: object) -> None: ...

@final
class Tokenizer:
    @property
    def vocab_size(self) -> int: ...
    @property
    def bos_id(self) -> Optional[int]: ...
    @property
    def eos_ids(self) -> list[int]: ...
    @property
    def chat_template(self) -> Optional[str]: ...
    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]: ...
    def decode(self, ids: Union[Sequence[int], npt.NDArray[Any]], *, skip_special: bool = True) -> str: ...
    @overload
    def apply_chat_template(
        self,
        messages: Sequence[_Json],
        *,
        tools: Optional[Sequence[_Json]] = None,
        documents: Optional[Sequence[_Json]] = None,
        chat_template_kwargs: Optional[_Json] = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tokenize: Literal[True] = True,
    ) -> list[int]: ...
    @overload
    def apply_chat_template(
        self,
        messages: Sequence[_Json],
        *,
        tools: Optional[Sequence[_Json]] = None,
        documents: Optional[Sequence[_Json]] = None,
        chat_template_kwargs: Optional[_Json] = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tokenize: Literal[False],
    ) -> str: ...
    def id_to_token(self, id: int) -> Optional[str]: ...
    def token_to_id(self, token: str) -> Optional[int]: ...
    def __len__(self) -> int: ...

@final
class Session:
    @property
    def position(self) -> int: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def context(self) -> int: ...
    def feed(self, ids: _Prompt) -> npt.NDArray[np.float32]: ...
    def truncate(self, n: int) -> None: ...
    @overload
    def generate(
        self,
        prompt: Optional[_Prompt] = None,
        *,
        stream: Literal[False] = False,
        interval: float = 0.02,
        **options: Unpack[GenerateOptions],
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: Optional[_Prompt] = None,
        *,
        stream: Literal[True],
        interval: float = 0.02,
        **options: Unpack[GenerateOptions],
    ) -> Stream: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exception: object) -> None: ...

class Model:
    def __new__(
        cls,
        path: Optional[_Path] = None,
        *,
        threads: Optional[int] = None,
        context: Optional[int] = None,
        kv: str = "f16",
        precision: str = "int8",
        head: str = "full",
        sequences: int = 4,
        isa: Optional[str] = None,
        progress: _Progress = None,
    ) -> Self: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def path(self) -> Optional[os.PathLike[str]]: ...
    @property
    def context(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def bits_per_weight(self) -> float: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @overload
    def generate(
        self,
        prompt: _Prompt,
        *,
        stream: Literal[False] = False,
        interval: float = 0.02,
        **options: Unpack[GenerateOptions],
    ) -> Completion: ...
    @overload
    def generate(
        self, prompt: _Prompt, *, stream: Literal[True], interval: float = 0.02, **options: Unpack[GenerateOptions]
    ) -> Stream: ...
    @overload
    def chat(
        self,
        messages: Sequence[_Json],
        *,
        tools: Optional[Sequence[_Json]] = None,
        documents: Optional[Sequence[_Json]] = None,
        chat_template_kwargs: Optional[_Json] = None,
        stream: Literal[False] = False,
        interval: float = 0.02,
        **options: Unpack[GenerateOptions],
    ) -> Completion: ...
    @overload
    def chat(
        self,
        messages: Sequence[_Json],
        *,
        tools: Optional[Sequence[_Json]] = None,
        documents: Optional[Sequence[_Json]] = None,
        chat_template_kwargs: Optional[_Json] = None,
        stream: Literal[True],
        interval: float = 0.02,
        **options: Unpack[GenerateOptions],
    ) -> Stream: ...
    def logits(self, prompt: _Prompt, *, last: bool = False) -> npt.NDArray[np.float32]: ...
    def log_probs(self, prompt: _Prompt) -> npt.NDArray[np.float64]: ...
    def perplexity(self, text: str, *, window: int = 512, progress: _Progress = None) -> Perplexity: ...
    def session(self, *, context: Optional[int] = None) -> Session: ...

@final
class PackedMatrix:
    @property
    def codes(self) -> npt.NDArray[np.uint8]: ...
    @property
    def scales(self) -> npt.NDArray[np.float16]: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def format(self) -> str: ...
    @property
    def scale(self) -> str: ...
    @property
    def group_size(self) -> Optional[int]: ...
    @property
    def quad(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def bits_per_weight(self) -> float: ...
    @property
    def report(self) -> Optional[dict[str, Any]]: ...
    @staticmethod
    def from_arrays(
        codes: npt.ArrayLike,
        scales: npt.ArrayLike,
        shape: tuple[int, int],
        *,
        format: _Format = "sherry-1.25",
        scale: _Scale = "row",
        group_size: Optional[int] = None,
        quad: _Quad = "contiguous",
    ) -> PackedMatrix: ...
    def dequantize(self, dtype: Literal["float16", "float32", "float64"] = "float32") -> npt.NDArray[Any]: ...
    def linear(
        self, x: npt.ArrayLike, *, precision: _Precision = "int8", threads: Optional[int] = None
    ) -> npt.NDArray[np.float32]: ...
    def __matmul__(self, x: npt.ArrayLike, /) -> npt.NDArray[np.float32]: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

def quantize(
    array: npt.ArrayLike,
    *,
    format: _Format = "sherry-1.25",
    scale: _Scale = "row",
    group_size: Optional[int] = None,
    quad: _Quad = "contiguous",
    projection: Optional[Literal["sparse-absmean", "absmean", "absmedian", "twn", "exact"]] = None,
    importance: Optional[npt.ArrayLike] = None,
) -> PackedMatrix: ...
def dequantize_blocks(data: npt.ArrayLike, type: str) -> npt.NDArray[np.float32]: ...
def quantize_model(
    source: _Path,
    target: _Path,
    *,
    format: Literal["sherry-1.25", "ternary-1.67", "ternary-2"] = "sherry-1.25",
    scale: Optional[_Scale] = None,
    group_size: Optional[int] = None,
    quad: Optional[_Quad] = None,
    projection: Optional[Literal["absmean", "absmedian", "twn"]] = None,
    embed: str = "auto",
    importance: Optional[_Path] = None,
    fallback: Optional[Literal["q8_0", "f16"]] = None,
    overwrite: bool = False,
    progress: _Progress = None,
) -> dict[str, Any]: ...
def convert(
    source: _Path,
    target: _Path,
    *,
    dtype: Optional[str] = None,
    embed: str = "keep",
    fallback: Optional[Literal["q8_0", "f16"]] = None,
    stq_id: int = 43,
    overwrite: bool = False,
    progress: _Progress = None,
) -> dict[str, Any]: ...
def inspect(
    path: _Path, *, tensors: bool = False, metadata: bool = False, verify: bool = False
) -> dict[str, Any]: ...
def doctor() -> dict[str, Any]: ...
def evaluate(
    model: Model,
    *,
    tasks: str = "sherry5",
    data: _Path,
    limit: Optional[float] = None,
    num_fewshot: int = 0,
    fewshot_seed: int = 1234,
    progress: _Progress = None,
) -> dict[str, Any]: ...
