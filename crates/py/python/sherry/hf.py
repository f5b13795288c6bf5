"""transformers loads Sherry's native folders: import this, then `AutoModelForCausalLM.from_pretrained(folder)`.

The weights are unpacked while they are loaded; what comes out is an ordinary model of PyTorch, to be moved, cast, trained
and saved like any other. Needs transformers 5 or later.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from transformers import __version__ as _transformers_version
from transformers.utils.quantization_config import QuantizationConfigMixin

from ._sherry import PackedMatrix, dequantize_blocks

if int(_transformers_version.split(".")[0]) < 5:
    raise ImportError(f"sherry.hf needs transformers 5 or later; this is {_transformers_version}")

from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer

#: The types of blocks in which a matrix may be stored.
BLOCK_TYPES = (
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q8_0",
    "q2_k",
    "q3_k",
    "q4_k",
    "q5_k",
    "q6_k",
    "iq4_nl",
    "tq1_0",
    "tq2_0",
    "stq1_0",
    "q1_0",
    "q2_0",
    "pq2_0",
    "ptq1_0",
    "sq3_0",
)


@register_quantization_config("sherry")
class SherryConfig(QuantizationConfigMixin):
    """The `quantization_config` of a native folder."""

    #: transformers: the loaded model is not a quantized one.
    dequantize = True

    def __init__(
        self,
        version: int = 1,
        format: str = "sherry-1.25",
        bits: Optional[float] = None,
        quad: str = "contiguous",
        scale: str = "row",
        group_size: Optional[int] = None,
        quant_method: str = "sherry",
        **others: Any,
    ) -> None:
        if version != 1:
            raise ValueError(f"quantization_config.version is {version}; this package knows version 1")
        if others.get("use_rms_norm"):
            raise NotImplementedError("norms of the inputs of linear layers (use_rms_norm) have no place in transformers")
        self.quant_method = quant_method
        self.version = version
        self.format = format
        self.bits = bits
        self.quad = quad
        self.scale = scale
        self.group_size = group_size


@register_quantizer("sherry")
class SherryQuantizer(HfQuantizer):
    """Unpacks the weights of a native folder while they are loaded."""

    quantization_config: SherryConfig
    is_trainable = True

    def is_serializable(self) -> bool:
        return True

    def get_weight_conversions(self) -> list[WeightConverter]:
        packed = WeightConverter([r"\.codes$", r"\.scales$"], ".weight", [Unpack(self, None)])
        blocks = [WeightConverter([rf"\.{name}$"], ".weight", [Unpack(self, name)]) for name in BLOCK_TYPES]
        return [packed, *blocks]


class Unpack(ConversionOps):
    """The tensors of one matrix to its weight, in the type of the model's parameter."""

    def __init__(self, hf_quantizer: SherryQuantizer, block_type: Optional[str]) -> None:
        self.hf_quantizer = hf_quantizer
        self.block_type = block_type

    def convert(
        self,
        input_dict: dict[str, Any],
        model: Optional[torch.nn.Module] = None,
        full_layer_name: Optional[str] = None,
        **kwargs: Any,
    ) -> dict[str, torch.Tensor]:
        assert model is not None and full_layer_name is not None
        parameter = model.get_parameter(full_layer_name)
        tensors = [tensors[0] if isinstance(tensors, list) else tensors for tensors in input_dict.values()]
        device = tensors[0].device
        arrays = {tensor.dtype: tensor.cpu().numpy() for tensor in tensors}
        codes = arrays[torch.uint8]
        if self.block_type is not None:
            weight = dequantize_blocks(codes, self.block_type)
        else:
            config = self.hf_quantizer.quantization_config
            packed = PackedMatrix.from_arrays(
                codes,
                arrays[torch.float16],
                tuple(parameter.shape),
                format=config.format,
                scale=config.scale,
                group_size=config.group_size,
                quad=config.quad,
            )
            weight = packed.dequantize()
        return {full_layer_name: torch.from_numpy(weight).to(device, parameter.dtype)}
