"""The configuration of a run: a TOML file with `key=value` overrides. The fields are those of `crates/train/src/config.rs`."""

import dataclasses
import json
import struct
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Optional, Union, get_args, get_origin, get_type_hints


class ConfigError(Exception):
    """A configuration that cannot be run; the message names the field."""


class F32(float):
    """A float that is rounded to float32, as the Rust trainer stores it."""

    def __new__(cls, value: float) -> "F32":
        try:
            return super().__new__(cls, struct.unpack("f", struct.pack("f", value))[0])
        except OverflowError:
            return super().__new__(cls, float("inf"))


Method = Literal["none", "sherry", "absmean", "absmedian", "twn", "binary", "lsq", "seq", "dlt", "tequila"]
Scale = Literal["row", "group", "tensor"]


@dataclass
class ModelConfig:
    """A model to continue from, or the shape of a new one. The Rust trainer makes the initial weights of both."""

    from_: Optional[str] = None
    family: Optional[Literal["llama", "qwen3", "gemma3"]] = None
    hidden: Optional[int] = None
    ffn: Optional[int] = None
    layers: Optional[int] = None
    heads: Optional[int] = None
    kv_heads: Optional[int] = None
    head_dim: Optional[int] = None
    vocab: Optional[int] = None
    tied: Optional[bool] = None
    rope_theta: Optional[F32] = None
    norm_eps: Optional[F32] = None
    window: Optional[int] = None
    window_pattern: Optional[int] = None


@dataclass
class QuantizerConfig:
    """How the projections are quantized."""

    method: Method = "sherry"
    scale: Scale = "row"
    group_size: int = 128
    quads: Literal["contiguous", "stride16"] = "contiguous"
    tequila: F32 = F32(1e-3)


@dataclass
class ArenasConfig:
    """Schedule of lambda; shares are of all steps."""

    shape: Literal["off", "linear", "cosine", "exponential"] = "cosine"
    lambda_max: float = 1.0
    warmup: float = 0.1
    tail: float = 0.02


@dataclass
class OptimizerConfig:
    """AdamW and the learning rate."""

    lr: float
    min_lr: float = 0.0
    schedule: Literal["constant", "cosine", "wsd"] = "cosine"
    warmup: int = 0
    decay: float = 0.2
    beta1: F32 = F32(0.9)
    beta2: F32 = F32(0.95)
    eps: F32 = F32(1e-8)
    weight_decay: F32 = F32(0.0)
    clip: F32 = F32(1.0)


@dataclass
class BatchConfig:
    """Batches of one optimizer step, over all processes together."""

    length: int
    size: int
    accumulate: int = 1
    recompute: bool = False
    document_mask: bool = False


@dataclass
class LearnedTokenizer:
    """A tokenizer that the Rust program learns from the training text."""

    vocab: int


@dataclass
class DataConfig:
    """Text; read and tokenized by the Rust trainer."""

    train: list[str]
    valid: list[str] = field(default_factory=list)
    valid_fraction: float = 0.0
    max_tokens: Optional[int] = None
    tokenizer: Union[LearnedTokenizer, str, None] = None
    text_field: str = "text"
    cache: Optional[str] = None


@dataclass
class LossConfig:
    """The mix of losses."""

    cross_entropy: F32 = F32(1.0)
    distillation: F32 = F32(0.0)
    divergence: Literal["forward", "reverse", "cakld", "top-k"] = "cakld"
    top_k: int = 64
    teacher: Optional[str] = None


@dataclass
class CheckpointConfig:
    """Saving."""

    every: int = 500
    keep: int = 2


@dataclass
class MetricsConfig:
    """Measuring."""

    every: int = 10
    probe_every: int = 100
    valid_every: int = 200
    valid_sequences: int = 256
    tensorboard: bool = True


@dataclass
class Config:
    """Everything that a run depends on."""

    steps: int
    model: ModelConfig
    optimizer: OptimizerConfig
    batch: BatchConfig
    data: DataConfig
    seed: int = 1
    threads: int = 0
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    arenas: ArenasConfig = field(default_factory=ArenasConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    @staticmethod
    def load(path: Path, overrides: list[str] = ()) -> "Config":
        """Reads `path` and applies overrides such as `optimizer.lr=1e-3` (a value that is not TOML is a string)."""
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        try:
            for entry in overrides:
                _override(table, entry)
            config = _build(Config, table, "")
            _check(config)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        return config

    def to_json(self) -> dict[str, Any]:
        """As the Rust trainer writes it to `state.json`."""
        table = dataclasses.asdict(self)
        table["model"]["from"] = table["model"].pop("from_")
        return table

    def difference(self, other: dict[str, Any]) -> Optional[tuple[str, str, str]]:
        """The first field whose value makes another run than `other` (a `to_json`), with both values."""
        return _difference("", other, self.to_json())


# Fields that runs of earlier versions do not have, and what they did.
_LATER = {"batch.document_mask": False, "data.valid_fraction": 0.0, "matmul_precision": "highest"}
# What only says where to keep things, how often to look and on how many threads.
_FREE = ("threads", "checkpoint", "metrics", "data.cache")


def _difference(path: str, was: Any, now: Any) -> Optional[tuple[str, str, str]]:
    if path in _FREE or was == now:
        return None
    if isinstance(was, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*was, *now]):
            where = f"{path}.{key}" if path else key
            found = _difference(where, was.get(key, _LATER.get(where)), now.get(key))
            if found:
                return found
        return None
    return path, json.dumps(was), json.dumps(now)


def _override(table: dict[str, Any], entry: str) -> None:
    key, equals, text = entry.partition("=")
    if not equals:
        raise ConfigError(f"override '{entry}' is not KEY=VALUE")
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, name = key.split(".")
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"override '{entry}': '{section}' is not a section")
    table[name] = value


def _build(kind: type, table: Any, path: str) -> Any:
    if not isinstance(table, dict):
        raise ConfigError(f"field '{path}': must be a section")
    hints, values = get_type_hints(kind), {}
    names = {"from" if f.name == "from_" else f.name: f for f in dataclasses.fields(kind)}
    for key, value in table.items():
        where = f"{path}.{key}" if path else key
        if key not in names:
            raise ConfigError(f"field '{where}': unknown, expected one of {', '.join(names)}")
        values[names[key].name] = _convert(hints[names[key].name], value, where)
    for key, f in names.items():
        missing = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if missing and f.name not in values:
            raise ConfigError(f"field '{path + '.' if path else ''}{key}': missing")
    return kind(**values)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, where)
    if get_origin(kind) is Union:
        # Of several kinds, the table comes first.
        first, *others = (k for k in get_args(kind) if k is not type(None))
        return _convert(others[0] if others and not isinstance(value, dict) else first, value, where)
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise ConfigError(f"field '{where}': is {value!r}, must be one of {', '.join(get_args(kind))}")
    if get_origin(kind) is list:
        if isinstance(value, list):
            return [_convert(str, item, where) for item in value]
    elif kind is bool or kind is str:
        if isinstance(value, kind):
            return value
    elif isinstance(value, bool):
        pass
    elif kind is int:
        if isinstance(value, int) and value >= 0:
            return value
    elif isinstance(value, (int, float)):
        return kind(value)
    words = {
        bool: "true or false", str: "a text in quotes", int: "a whole number, not below zero", F32: "a number", float: "a number",
    }  # fmt: skip
    raise ConfigError(f"field '{where}': is {value!r}, must be {words.get(kind, 'a list')}")


def _check(c: Config) -> None:
    """Ranges, as in the Rust trainer, which has seen the configuration before (`--prepare`)."""
    for where, value in [
        ("steps", c.steps), ("batch.length", c.batch.length), ("batch.size", c.batch.size),
        ("batch.accumulate", c.batch.accumulate), ("checkpoint.every", c.checkpoint.every),
        ("checkpoint.keep", c.checkpoint.keep), ("metrics.every", c.metrics.every), ("loss.top_k", c.loss.top_k),
    ]:  # fmt: skip
        if value < 1:
            raise ConfigError(f"field '{where}': must be at least 1")
    o, a = c.optimizer, c.arenas
    for where, value, low, high in [
        ("optimizer.lr", o.lr, 0.0, 1e3), ("optimizer.min_lr", o.min_lr, 0.0, o.lr), ("optimizer.decay", o.decay, 0.0, 1.0),
        ("optimizer.beta1", o.beta1, 0.0, 0.999999), ("optimizer.beta2", o.beta2, 0.0, 0.9999999),
        ("optimizer.eps", o.eps, 0.0, 1.0), ("optimizer.weight_decay", o.weight_decay, 0.0, 1e3),
        ("optimizer.clip", o.clip, 0.0, 1e30), ("arenas.lambda_max", a.lambda_max, 0.0, 1e3),
        ("arenas.warmup", a.warmup, 0.0, 1.0), ("arenas.tail", a.tail, 0.0, 1.0),
        ("quantizer.tequila", c.quantizer.tequila, 0.0, 1.0),
        ("loss.cross_entropy", c.loss.cross_entropy, 0.0, 1e6), ("loss.distillation", c.loss.distillation, 0.0, 1e6),
    ]:  # fmt: skip
        if not low <= value <= high:
            raise ConfigError(f"field '{where}': is {value}, must be between {low} and {high}")
    if c.loss.distillation > 0 and c.loss.teacher is None:
        raise ConfigError("field 'loss.teacher': missing, but loss.distillation is above 0")
    if c.loss.distillation == 0 and c.loss.cross_entropy == 0:
        raise ConfigError("field 'loss.cross_entropy': no loss at all: it and loss.distillation are 0")
    if not c.data.train:
        raise ConfigError("field 'data.train': names no file")
