"""Smaller precisions of an exported graph.

`float16`: weights of convolutions and matrices are stored in half; the engine computes in float32, as with model files
of that dtype: half the file, on any processor. The front end and all vectors stay float32.

`int8`: convolutions of the backbone in 8 bits, weights with a scale for each output channel, activations with one that
is measured on sounds (static quantisation); front end and head stay float32. Weights take 7 bits, for processors
without VNNI add products of 8 bits in 16, and saturate.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from psla.export.graph import INPUT
from psla.extras import needed

if TYPE_CHECKING:
    from onnx import ModelProto

PRECISIONS = ("float32", "float16", "int8")
_EXACT = ".front_end."  # in the names of the constants that stay as they are


def halved(model: ModelProto) -> ModelProto:
    """With weights of two dimensions and more outside the front end in float16; each is cast back where it is used."""
    onnx, helper, arrays = needed("onnx", "onnx"), needed("onnx.helper", "onnx"), needed("onnx.numpy_helper", "onnx")
    casts = []
    for constant in model.graph.initializer:
        if constant.data_type != onnx.TensorProto.FLOAT or len(constant.dims) < 2 or _EXACT in constant.name:
            continue
        half = arrays.to_array(constant).astype(np.float16)
        name = constant.name
        if not np.isfinite(half).all():
            raise ValueError(f"{name} has numbers that float16 cannot hold: export as float32")
        constant.CopyFrom(arrays.from_array(half, f"{name}_half"))
        casts.append(helper.make_node("Cast", [constant.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    return model


def quantised(model: ModelProto, waveforms: Sequence[np.ndarray]) -> ModelProto:
    """In int8, its activations measured on these waveforms.

    Args:
        waveforms: (samples,) int16 each, at the model's rate; a few dozen that sound as what will be tagged.
    """
    onnx, tools = needed("onnx", "onnx"), needed("onnxruntime.quantization", "onnx")
    named = [node.name for node in model.graph.node if node.op_type == "Conv" and _EXACT not in node.input[1]]
    with TemporaryDirectory() as folder, _quiet():
        given, made = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, given)
        tools.quantize_static(
            given,
            made,
            _Sounds(waveforms),
            quant_format=tools.QuantFormat.QDQ,
            nodes_to_quantize=named,
            per_channel=True,
            reduce_range=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            calibrate_method=tools.CalibrationMethod.MinMax,
        )
        return onnx.load(made)


class _Sounds:
    """What the quantiser reads: one waveform a time."""

    def __init__(self, waveforms: Sequence[np.ndarray]) -> None:
        self._waiting: Iterator[np.ndarray] = iter(waveforms)

    def get_next(self) -> dict[str, Any] | None:
        wave = next(self._waiting, None)
        return None if wave is None else {INPUT: wave[None].astype(np.float32) / 32768}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without its advice to prepare the model first, which torch's exporter has done."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
