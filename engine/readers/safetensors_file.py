"""One ``.safetensors`` file."""

from engine.readers import kinds, prequantized
from engine.readers.base import Reader
from engine.readers.header import read_header
from engine.records.model import ModelSummary


def open_file(path: str) -> ModelSummary:
    """A summary from the header alone. Raises InputError."""
    header = read_header(path)
    layers = kinds.describe(kinds.network_order(header.tensors), None)
    config = prequantized.configuration(None, header.metadata)
    quantized = prequantized.recognize(config, header.tensors)
    if quantized and quantized.readable and config:
        layers = prequantized.assemble(header.tensors, layers, config, header.metadata)
    summary = ModelSummary(path, "safetensors", (header.file,), layers, metadata=header.metadata, quantized=quantized)
    return prequantized.with_shapes(summary, config)


READER = Reader(
    "safetensors",
    "safetensors file",
    (".safetensors",),
    lambda path: path.endswith(".safetensors"),
    open_file,
)
