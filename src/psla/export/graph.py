"""The graph of a network or an ensemble: waveform in, probabilities and features out, the front end inside.

    waveform (batch, samples)
      | cut at the window; repeated and followed by zeros if short: the rules of
      | `psla.model.inference.tag_waveforms` and of `FrontEndSettings`, written here by hand, for they ask how
      | long the waveform is
      v
    the network as torch traces it, of waveforms of one length (`TaggingNetwork.traced`)
      v
    clip_probabilities, frame_probabilities, features, frame_features, familiarity

A batch holds waveforms of one length. Where the front end hears each clip at its own length, the number of samples
stays free in the graph; elsewhere all become a window. An ensemble's graph holds those of its members, one beside the
other, and the mean of what they say; they must share rate and step, since no graph here resamples.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from psla.extras import needed
from psla.model.ensemble import Ensemble
from psla.model.frontends.contract import FrontEndSettings
from psla.model.network import TaggingNetwork
from psla.model.pooling import Tagging

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

INPUT = "waveform"
OPSET = 18
FRAME_OUTPUTS = ("frame_probabilities", "frame_features")
_LENGTHS, _FITTED = "lengths", "fitted_waveform"
_MOST_CLIPS = 4096  # in a batch; torch wants a bound
_IR_VERSION = 10  # what ONNX Runtime from 1.18 on reads


class ExportError(ValueError):
    """A model that no graph can be made of, or that must not be written."""


def export_graph(network: TaggingNetwork | Ensemble) -> ModelProto:
    """The graph, in float32, with all outputs, without metadata.

    Raises:
        ExportError: an ensemble whose members differ in rate or step, or operations that ONNX does not have.
        ValueError: the extra `onnx` is not installed.
    """
    members = network.networks if isinstance(network, Ensemble) else [network]
    if len({(each.sample_rate, each.step_samples) for each in members}) > 1:
        raise ExportError("the ensemble's members differ in sample rate or step: export each of them by itself")
    parts = [_member(member, network.window_samples, number) for number, member in enumerate(members)]
    return _joined(parts, isinstance(network, Ensemble))


def shortest_graph_samples(network: TaggingNetwork) -> int:
    """Samples that a graph pads shorter waveforms to: the network's own number, or what one frame needs if that is
    more."""
    low, high = network.shortest_samples, network.window_samples
    while low < high:  # the least number that has a frame
        middle = (low + high) // 2
        low, high = (low, middle) if int(network.front_end.frame_counts(torch.tensor([middle]))) else (middle + 1, high)
    return low


class _Traced(nn.Module):
    """What torch traces."""

    def __init__(self, network: TaggingNetwork) -> None:
        super().__init__()
        self.network = network.for_export()

    def forward(self, waveform: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        tagging = self.network.traced(waveform, lengths)
        return {name: part for name, part in tagging._asdict().items() if part is not None}


def _member(network: TaggingNetwork, window: int, number: int) -> ModelProto:
    """The graph of one network, which hears `window` samples at most, its names prefixed with its number."""
    onnx = needed("onnx", "onnx")
    needed("onnx.compose", "onnx")
    body = _traced(network)
    shortest = shortest_graph_samples(network)
    nodes, constants = _fitting(network.config.front_end, min(window, network.window_samples), shortest)
    body = onnx.compose.add_prefix(body, f"m{number}_", rename_inputs=False, rename_outputs=False)
    for node in nodes:
        node.input[:] = [name if name in ("", INPUT) else f"m{number}_{name}" for name in node.input]
        node.output[:] = [f"m{number}_{name}" for name in node.output]
    for constant in constants:
        constant.name = f"m{number}_{constant.name}"
    for node in body.graph.node:
        node.input[:] = [f"m{number}_{name}" if name in (_FITTED, _LENGTHS) else name for name in node.input]
        for names in (node.output, node.input):  # further nodes may read an output
            names[:] = [f"m{number}_{name}" if name in Tagging._fields else name for name in names]
        del node.metadata_props[:]  # where in whose folders the code lies that was traced
    body.graph.initializer.extend(constants)
    own = list(body.graph.node)
    del body.graph.node[:]
    body.graph.node.extend([*nodes, *own])
    return body


def _traced(network: TaggingNetwork) -> ModelProto:
    """The network from fitted waveforms on, as torch's exporter writes it; every wanted output has its own name."""
    needed("onnxscript", "onnx")
    from torch._dynamo.exc import UserError  # has no public name; what `torch.export` raises

    shortest, window = shortest_graph_samples(network), network.window_samples
    # An odd length in between, so that nothing is taken for a constant that is none.
    samples = window if shortest == window else shortest + (window - shortest) // 3 * 2 + 1
    waveform = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    batch = torch.export.Dim("batch", min=1, max=_MOST_CLIPS)
    dims: dict[int, Any] = {0: batch}
    if shortest < window:
        dims[1] = torch.export.Dim("samples", min=shortest, max=window)
    module = _Traced(network).eval()
    example = (waveform, torch.full((2,), samples))
    with torch.no_grad(), _quiet():
        names = list(module(*example))
        try:
            program = torch.export.export(
                module, example, dynamic_shapes=(dims, {0: batch}), prefer_deferred_runtime_asserts_over_guards=True
            )
            written = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[_FITTED, _LENGTHS],
                output_names=names,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, UserError) as error:
            raise ExportError(f"torch cannot write this network as a graph: {error}") from error
    assert written is not None
    return written.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks are for its developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _fitting(config: FrontEndSettings, window: int, shortest: int) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes from `waveform` to `fitted_waveform` and `lengths`, and their constants.

    heard = waveform[:, :window], so many samples: length
    copies = heard, as often as it takes to reach `shortest`, where length is at least the front end's
             `repeat_frames` and below `shortest`; else heard, once
    fitted_waveform = copies[:, :shortest if there are copies else length], then zeros up to `shortest`
    lengths = length, for every waveform of the batch
    """
    helper, arrays = needed("onnx.helper", "onnx"), needed("onnx.numpy_helper", "onnx")
    repeat = config.repeat_frames * config.hop_samples if config.repeat_frames else shortest
    values = {"window": [window], "shortest": [shortest], "repeat": [repeat], "one": [1], "zero": [0], "along": [1]}
    values |= {"before": [0, 0, 0], "nearly": [shortest - 1]}
    constants = [arrays.from_array(np.array(each, dtype=np.int64), name) for name, each in values.items()]
    constants.append(arrays.from_array(np.array(0, dtype=np.float32), "silence"))
    plan = [
        ("Slice", [INPUT, "zero", "window", "along"], "heard"),
        ("Shape", ["heard"], "shape"),
        ("Slice", ["shape", "one", "window"], "length"),
        ("Slice", ["shape", "zero", "one"], "clips"),
        ("GreaterOrEqual", ["length", "repeat"], "enough"),
        ("Less", ["length", "shortest"], "short"),
        ("And", ["enough", "short"], "again"),
        ("Max", ["length", "one"], "some"),
        ("Add", ["some", "nearly"], "ceiling"),
        ("Div", ["ceiling", "some"], "copies_needed"),
        ("Where", ["again", "copies_needed", "one"], "copies"),
        ("Concat", ["one", "copies"], "times"),
        ("Tile", ["heard", "times"], "repeated"),
        ("Where", ["again", "shortest", "length"], "kept"),
        ("Slice", ["repeated", "zero", "kept", "along"], "whole"),
        ("Max", ["kept", "shortest"], "full"),
        ("Sub", ["full", "kept"], "missing"),
        ("Concat", ["before", "missing"], "pads"),
        ("Pad", ["whole", "pads", "silence"], _FITTED),
        ("Expand", ["length", "clips"], _LENGTHS),
    ]
    axis = {"Concat": {"axis": 0}}
    return [helper.make_node(kind, given, [made], **axis.get(kind, {})) for kind, given, made in plan], constants


def _joined(parts: Sequence[ModelProto], averaged: bool) -> ModelProto:
    """One graph of one or several networks'."""
    onnx, helper, arrays = needed("onnx", "onnx"), needed("onnx.helper", "onnx"), needed("onnx.numpy_helper", "onnx")
    first = parts[0]
    nodes = [node for part in parts for node in part.graph.node]
    shapes = {each.name: each.type.tensor_type for each in first.graph.output}
    names = ["clip_probabilities", "frame_probabilities"] if averaged else list(shapes)
    for name in names:
        own = [f"m{number}_{name}" for number in range(len(parts))]
        if not averaged:
            nodes.append(helper.make_node("Identity", own, [name]))
            continue
        doubles = [f"{each}_double" for each in own]
        nodes += [
            helper.make_node("Cast", [a], [b], to=onnx.TensorProto.DOUBLE) for a, b in zip(own, doubles, strict=True)
        ]
        # Not `Mean`, which ONNX Runtime has in float32 alone.
        nodes.append(helper.make_node("Sum", doubles, [f"{name}_sum"]))
        nodes.append(helper.make_node("Div", [f"{name}_sum", "members"], [f"{name}_double"]))
        nodes.append(helper.make_node("Cast", [f"{name}_double"], [name], to=onnx.TensorProto.FLOAT))
    outputs = [
        helper.make_tensor_value_info(
            name,
            onnx.TensorProto.FLOAT,
            [
                each.dim_value or ("steps" if place == 1 else "batch")
                for place, each in enumerate(shapes[name].shape.dim)
            ],
        )
        for name in names
    ]
    waveform = helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, ["batch", "samples"])
    constants = [each for part in parts for each in part.graph.initializer]
    constants.append(arrays.from_array(np.array(len(parts), dtype=np.float64), "members"))
    graph = helper.make_graph(_pooled(nodes, constants), "psla", [waveform], outputs, constants)
    model = helper.make_model(graph, opset_imports=[*first.opset_import], producer_name="psla")
    model.ir_version = _IR_VERSION
    for part in parts:
        model.functions.extend(part.functions)
    model = _without_unused(model)
    onnx.checker.check_model(model)
    return model


def _pooled(nodes: Sequence[NodeProto], constants: Sequence[TensorProto]) -> list[NodeProto]:
    """With the mean over height and width as the operator that ONNX Runtime has in the layout of its convolutions."""
    helper, arrays = needed("onnx.helper", "onnx"), needed("onnx.numpy_helper", "onnx")
    axes = {each.name for each in constants if list(each.dims) == [2] and _is_plane(arrays.to_array(each))}
    made = []
    for node in nodes:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in axes:
            made.append(node)
            continue
        keeps = next((each.i for each in node.attribute if each.name == "keepdims"), 1)
        whole = node.output[0] if keeps else f"{node.output[0]}_plane"
        pooled = helper.make_node("GlobalAveragePool", [node.input[0]], [whole], name=node.name)
        made.append(pooled)
        if not keeps:
            made.append(helper.make_node("Flatten", [whole], [node.output[0]]))
    return made


def _is_plane(values: Any) -> bool:
    return sorted(values.tolist()) in ([2, 3], [-2, -1])


def _without_unused(model: ModelProto) -> ModelProto:
    """Without the nodes and constants that no output needs."""
    needed_names = {each.name for each in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed_names & set(node.output):
            kept.append(node)
            needed_names |= set(node.input)
    constants = [each for each in model.graph.initializer if each.name in needed_names]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(kept))
    model.graph.initializer.extend(constants)
    return model
