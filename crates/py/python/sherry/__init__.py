"""1.25-bit language models on ordinary CPUs: quantize, run, evaluate.

>>> import sherry
>>> model = sherry.Model.builtin()
>>> print(model.generate("The history of", max_new_tokens=8, temperature=0).text)  # doctest: +SKIP
"""

from ._model import Model
from ._results import Completion, Perplexity, Piece, Timings, Usage
from ._sherry import (
    PackedMatrix,
    Session,
    SherryError,
    Stream,
    Tokenizer,
    __version__,
    convert,
    dequantize_blocks,
    doctor,
    evaluate,
    inspect,
    quantize,
    quantize_model,
)

__all__ = [
    "Completion",
    "Model",
    "PackedMatrix",
    "Perplexity",
    "Piece",
    "Session",
    "SherryError",
    "Stream",
    "Timings",
    "Tokenizer",
    "Usage",
    "__version__",
    "convert",
    "dequantize_blocks",
    "doctor",
    "evaluate",
    "inspect",
    "quantize",
    "quantize_model",
]
