"""A whole module that torch.save pickled: loading it runs whatever the file says, so the user must agree to its bytes first."""

from __future__ import annotations

import hashlib
import io

from engine.errors import InputError
from engine.models.base import Loaded, Loader, Request
from engine.models.code import first_line, read_bytes, require_trust
from engine.readers.archive import records

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def load(request: Request) -> Loaded:
    """The pickled module. What it wants to import is listed without running it; no weaker mode is ever tried."""
    import torch

    path = str(request.source)
    data = read_bytes(path)
    records(path, io.BytesIO(data))
    wanted = _imports(path, data)
    digest = hashlib.sha256(data).hexdigest()
    require_trust(digest, request.trusted, path=path, what=f"a pickle that imports {', '.join(wanted)}")
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path} cannot be unpickled: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(loaded, torch.nn.Module):
        raise InputError(
            f"{path} holds a {type(loaded).__name__}, not a torch.nn.Module; name the factory that builds the network."
        )
    return Loaded(loaded, path, "pickled")


def _imports(path: str, data: bytes) -> list[str]:
    """What the pickle imports beyond tensors. Raises InputError when there is nothing: then it holds no module."""
    import torch

    try:
        wanted = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data)))
    except Exception as error:
        raise InputError(f"{path} is damaged: {first_line(error)}") from None
    if not wanted:
        raise InputError(f"{path} holds weights alone; name the factory (file.py:function) that builds their network.")
    return wanted


LOADER = Loader("pickled module", lambda request: isinstance(request.source, str) and request.source.endswith(SUFFIXES), load)
