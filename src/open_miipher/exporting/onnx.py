"""Write a chain as ONNX: one file that restores chunks without this program and without torch.

The graph takes chunks at the model's input rate, scaled as `audio.level.speech_gains` says, and
gives them back as the chain does: `examples/restore_onnx.py` has all that belongs around it. Loops
of a fixed number of iterations are unrolled; the noise that a vocoder starts from is an input.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._export.verifier import SpecViolationError

from open_miipher.base.atomic import replacing
from open_miipher.base.errors import UserError
from open_miipher.base.paths import printable
from open_miipher.cleaners import Cleaner
from open_miipher.vocoders import Vocoder

OPSET = 18
MODEL = "model.onnx"
_MOST_BYTES = 2**31 - 2**24  # of one protobuf file
_FRAMES, _BATCH = 50, 3  # of the example that is traced; any others work as well
_REFUSALS = (
    *(RuntimeError, ValueError, TypeError, AttributeError, AssertionError, LookupError),
    *(ArithmeticError, SpecViolationError),
)
"""What cannot be traced or translated ends in errors of many kinds, from deep within torch."""


class Graph(nn.Module):
    """What is exported of a chain.

    Args:
        cleaner: with its encoder.
        vocoder: for its features.
    """

    def __init__(self, cleaner: Cleaner, vocoder: Vocoder) -> None:
        super().__init__()
        self.cleaner, self.vocoder = cleaner, vocoder

    def forward(self, waveform: Tensor, lengths: Tensor, noise: Tensor) -> Tensor:
        """Restore chunks.

        Args:
            waveform: (batch, frames · input hop), at the input rate.
            lengths: (batch,) samples before the padding.
            noise: (batch, frames · output hop), standard normal; ignored if none is needed.

        Returns:
            (batch, frames · output hop), at the output rate.
        """
        features, frame_lengths = self.cleaner(waveform, lengths)
        restored = self.vocoder.generate(features, noise, frame_lengths).float()
        # Noise that is not used stays an input, so that all models are called alike.
        return restored if self.vocoder.needs_noise else restored + 0 * noise


def export_onnx(
    cleaner: Cleaner, vocoder: Vocoder, path: Path, metadata: Mapping[str, Any], half: bool = False
) -> None:
    """Write a chain as an ONNX file.

    Args:
        cleaner: with its encoder, on the CPU, in float32.
        vocoder: for its features.
        path: of the file.
        metadata: is written into it, as text.
        half: store the weights in float16; the computation stays in float32.

    Raises:
        UserError: a package is missing, the file cannot be written or would be too large, or a
            part of the chain cannot be exported; the message names it.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise UserError(
            f"ONNX is written with the package {error.name}: pip install '.[onnx]'"
        ) from error
    graph = Graph(cleaner, vocoder).eval().requires_grad_(False)
    size = sum(t.numel() * t.element_size() for t in (*graph.parameters(), *graph.buffers()))
    if size > _MOST_BYTES:
        raise UserError(
            f"the chain has {size / 1e9:.1f} GB of weights, and one ONNX file holds 2 GB: export "
            "safetensors"
        )
    program = _traced(graph)
    _hold_all_constants(program.model.graph)
    model = program.model_proto
    if half:
        _store_in_half(model)
    for key, value in {**metadata, "opset": OPSET}.items():
        model.metadata_props.add(key=key, value=str(value))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise UserError(_refusal(error, cleaner, vocoder)) from error
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(model.SerializeToString())
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be written: {error.strerror}") from error


def _traced(graph: Graph) -> Any:
    """Return torch's ONNX program of a chain, for any batch and length.

    Raises:
        UserError: a part of the chain cannot be exported.
    """
    cleaner, vocoder = graph.cleaner, graph.vocoder
    encoder = cleaner.encoder
    batch, frames = torch.export.Dim("batch"), torch.export.Dim("frames", min=2)
    shapes = (
        {0: batch, 1: encoder.hop_length * frames},
        {0: batch},
        {0: batch, 1: vocoder.hop_length * frames},
    )
    num_samples = _FRAMES * encoder.hop_length
    lengths = torch.full((_BATCH,), num_samples)
    lengths[1] -= 5 * encoder.hop_length + 1  # one is padded, so that masks are traced
    example = (
        torch.zeros(_BATCH, num_samples),
        lengths,
        torch.zeros(_BATCH, _FRAMES * vocoder.hop_length),
    )
    try:
        with _quietly(), torch.no_grad():
            exported = torch.export.export(graph, example, dynamic_shapes=shapes)
            return torch.onnx.export(
                exported,
                dynamo=True,
                opset_version=OPSET,
                input_names=["waveform", "lengths", "noise"],
                output_names=["restored"],
                verbose=False,
            )
    except _REFUSALS as error:
        raise UserError(_refusal(error, cleaner, vocoder)) from error


def _refusal(error: Exception, cleaner: Cleaner, vocoder: Vocoder) -> str:
    """Say which part of a chain cannot be exported, as far as the traceback tells."""
    parts = {
        type(cleaner.encoder).__name__: "encoder",
        type(vocoder).__name__: "vocoder",
        type(cleaner).__name__: "cleaner",
    }
    told, reason = "", error
    while reason.__cause__ is not None:
        reason = reason.__cause__  # type: ignore[assignment]
    trace = reason.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if type(owner).__name__ in parts:
            told = f"the {parts[type(owner).__name__]}, {type(owner).__name__},"
        trace = trace.tb_next
    first = " ".join(str(reason).split())[:200] or type(reason).__name__
    return f"{told or 'a part of the chain'} cannot be exported to ONNX: {first}"


def _hold_all_constants(graph: Any) -> None:
    """Add the constants that nodes use and the graph lacks.

    Where one value is clamped to several ranges, as in Gemma 4's tower, onnxscript (0.7) makes a
    `Clip` of each, and puts the bounds of one alone into the graph.
    """
    for node in graph:
        for value in node.inputs:
            if value is None or value.producer() is not None or value.const_value is None:
                continue
            if graph.initializers.get(value.name) is not value:
                if value.name in graph.initializers:
                    value.name = f"{value.name}_of_{node.outputs[0].name}"
                graph.register_initializer(value)


def _store_in_half(model: Any) -> None:
    """Store large weights in float16, each followed by a cast to float32."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > 64:
            values, name = numpy_helper.to_array(tensor), tensor.name
            stored = f"{name}_half"
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
            casts.append(helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Leave out what torch's exporter tells its developers; errors still pass."""
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)
