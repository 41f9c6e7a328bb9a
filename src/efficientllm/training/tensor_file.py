"""Tensors in a safetensors file, written one after another, so that saving takes no second copy of them in memory.

    8 bytes: length of the header │ header, JSON: name -> type, shape, where │ the tensors' bytes

The library's own writer gathers all bytes before it writes any: a checkpoint would then be seen in the memory that is
measured. Read by the library. Format: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from efficientllm.errors import Unsupported

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

_READ_BYTES = 1 << 22


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> int:
    """Write plain tensors, wherever they are; the file is on the disk when this returns. Returns its CRC-32.

    Raises:
        Unsupported: a number format that such a file cannot hold.
        OSError: it cannot be written.
    """
    header = _header(tensors)
    checksum = zlib.crc32(header)
    with path.open("wb") as file:
        file.write(header)
        for tensor in tensors.values():
            if not tensor.numel():
                continue
            data = memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            checksum = zlib.crc32(data, checksum)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return checksum


def tensor_names(path: Path) -> list[str]:
    """Return the names of the tensors in a file."""
    with safe_open(path, framework="pt", device="cpu") as file:
        return list(file.keys())


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor, in the host's memory, one at a time."""
    with safe_open(path, framework="pt", device="cpu") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            yield name, file.get_tensor(name)


def file_crc32(path: Path) -> int:
    """Return the CRC-32 of a whole file."""
    checksum = 0
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            checksum = zlib.crc32(data, checksum)
    return checksum


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    entries: dict[str, object] = {}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise Unsupported(f"{name} has the type {tensor.dtype}, which a checkpoint cannot hold")
        begin, end = end, end + tensor.numel() * tensor.itemsize
        entries[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text
