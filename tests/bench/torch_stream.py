"""The yardstick: a careful plain-torch pass over the same file, in cache-sized chunks, with SQNR and histogram.

    python tests/bench/torch_stream.py int8|int4 MODEL_FOLDER OUT_FILE

What an expert would write in an afternoon: one fixed scheme, bfloat16 only, preallocated buffers, absmax and histogram on
bit patterns, two intra-op threads, a writer thread; no checks, no fsync. Prints seconds without imports and peak memory.
"""

import json
import mmap
import os
import queue
import struct
import sys
import threading
import time
import warnings

import torch

GROUP, CHUNK = 128, 64 * 5632


class Layout:
    """The output's header, grown tensor by tensor."""

    def __init__(self) -> None:
        self.entries: dict[str, dict] = {}
        self.size = 0

    def place(self, name: str, dtype: str, shape: list[int], nbytes: int) -> int:
        start, self.size = self.size, self.size + nbytes
        self.entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, self.size]}
        return start


class Buffers:
    """Reused by every chunk of every tensor."""

    def __init__(self) -> None:
        self.f, self.h = torch.empty(2 * CHUNK), torch.empty(2 * CHUNK)
        self.bits = torch.empty(2 * CHUNK, dtype=torch.int16)
        self.codes = torch.empty(2 * CHUNK, dtype=torch.int8)
        self.pairs = torch.empty(CHUNK, dtype=torch.int16)


def quantize(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, int4: bool, b: Buffers
) -> tuple[float, float, torch.Tensor]:
    """Fill codes and scales of one weight; returns signal, noise and a 32768-bin histogram of bit patterns."""
    rows, cols = x.shape
    group, top = (GROUP, 7.0) if int4 else (cols, 127.0)
    step = max(1, CHUNK // cols)
    signal = noise = 0.0
    histogram = torch.zeros(32768, dtype=torch.int64)
    for a in range(0, rows, step):
        part = x[a : a + step]
        n, shape = part.numel(), part.shape
        f, h, bits = b.f[:n].view(shape), b.h[:n].view(shape), b.bits[:n].view(shape)
        torch.bitwise_and(part.view(torch.int16), 0x7FFF, out=bits)
        scale = bits.view(len(part), -1, group).amax(-1).view(torch.bfloat16).float().div_(top)
        scales[a : a + step] = scale
        f.copy_(part)
        signal += torch.dot(f.view(-1), f.view(-1)).item()
        grouped = f.view(len(part), -1, group)
        grouped.mul_(scale.reciprocal()[..., None])
        torch.round(f, out=h)
        f.sub_(h)
        noise += (torch.linalg.vector_norm(grouped, 2, dim=2) * scale).square_().sum().item()
        if int4:
            k = b.codes[:n].view(shape)
            k.copy_(h)
            k16 = k.view(torch.int16)
            pairs = b.pairs[: n // 2].view(k16.shape)
            torch.bitwise_right_shift(k16, 4, out=pairs)
            pairs.bitwise_and_(0xF0).bitwise_or_(k16.bitwise_and_(15))
            codes[a : a + step].copy_(pairs)
        else:
            codes[a : a + step].copy_(h)
        torch.bitwise_right_shift(part.view(torch.int16), 1, out=bits)
        histogram += torch.bincount(bits.bitwise_and_(0x7FFF).view(-1), minlength=32768)
    return signal, noise, histogram


def main(scheme: str, folder: str, out: str) -> None:
    torch.set_grad_enabled(False)
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    int4 = scheme == "int4"
    source = os.open(os.path.join(folder, "model.safetensors"), os.O_RDONLY)
    length = struct.unpack("<Q", os.pread(source, 8, 0))[0]
    header = json.loads(os.pread(source, length, 8))
    header.pop("__metadata__", None)
    base, layout, plan = 8 + length, Layout(), []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if ".layers." in name and len(entry["shape"]) == 2:
            rows, cols = entry["shape"]
            width, groups = (cols // 2, cols // GROUP) if int4 else (cols, 1)
            places = (
                layout.place(name, "U8" if int4 else "I8", [rows, width], rows * width),
                layout.place(name + "_scale", "F32", [rows, groups], 4 * rows * groups),
            )
            plan.append((begin, end, (rows, cols, width, groups), places))
        else:
            plan.append((begin, end, None, (layout.place(name, entry["dtype"], entry["shape"], end - begin),)))
    text = json.dumps(layout.entries).encode()
    text += b" " * (-len(text) % 8)
    target = os.open(out, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o644)
    os.pwrite(target, struct.pack("<Q", len(text)) + text, 0)
    first = 8 + len(text)
    work: queue.Queue = queue.Queue(4)
    slots: queue.Queue = queue.Queue()
    largest = max(s[0] * s[2] for *_, s, _ in plan if s)
    for _ in range(2):
        slots.put((bytearray(largest), bytearray(4 * max(s[0] * s[3] for *_, s, _ in plan if s))))

    def write() -> None:
        while (item := work.get()) is not None:
            pieces, slot = item
            for position, data in pieces:
                done = 0
                while done < len(data):
                    done += os.pwrite(target, data[done : done + (8 << 20)], first + position + done)
            if slot:
                slots.put(slot)

    writer = threading.Thread(target=write)
    writer.start()
    buffers = Buffers()
    for begin, end, sizes, places in plan:
        page = (base + begin) // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(source, base + end - page, prot=mmap.PROT_READ, offset=page)
        skip = base + begin - page
        if sizes is None:
            work.put(([(places[0], memoryview(mapped)[skip : skip + end - begin])], None))
            continue
        rows, cols, width, groups = sizes
        slot = slots.get()
        codes = torch.frombuffer(slot[0], dtype=torch.uint8 if int4 else torch.int8, count=rows * width).view(rows, width)
        scales = torch.frombuffer(slot[1], dtype=torch.float32, count=rows * groups).view(rows, groups)
        x = torch.frombuffer(mapped, dtype=torch.bfloat16, offset=skip, count=rows * cols).view(rows, cols)
        quantize(x, codes, scales, int4, buffers)
        pieces = [(places[0], memoryview(slot[0])[: rows * width]), (places[1], memoryview(slot[1])[: 4 * rows * groups])]
        work.put((pieces, slot))
    work.put(None)
    writer.join()
    os.close(target)
    print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main(*sys.argv[1:4])
