"""A model carried out part by part, so that the memory of one part is enough and each part sees what the one before gives.

Blocks in a row (the layers of a transformer) are parts of their own: inputs of the next one are kept, and only those. A model of
any other make is run from its beginning up to the layers that are wanted.
"""

from __future__ import annotations

import os
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

import torch

from engine.calibration.collect import Products, is_routed
from engine.calibration.sites import Operator, Sites, Watched
from engine.errors import DataError
from engine.models.base import RunnableModel

if TYPE_CHECKING:
    from engine.calibration.batches import Batch
    from engine.calibration.data import Data

OWN_FOLDER = os.path.dirname(os.path.dirname(__file__)) + os.sep
MOST_PARTS = 64
"""Parts of a model that is not a row of blocks: each costs a forward up to it."""


class Visitor(Protocol):
    """What is done at every multiplication."""

    def begin(self, batch: Batch) -> None: ...
    def look(self, operator: Operator) -> None: ...
    def visit(self, operator: Operator) -> torch.Tensor: ...


class _Stop(Exception):
    """The part has been run; what follows is not wanted."""


class Part(ABC):
    """Some layers, by name, and how to run all data through them."""

    layers: frozenset[str]

    @abstractmethod
    def run(self, visitor: Visitor, check: Callable[[], None], *, keep: bool = False) -> None:
        """All batches through this part; ``keep`` makes the outputs the inputs of the next part."""


class Kept:
    """Tensors by number, in memory up to a limit and beyond it in files of a private folder."""

    def __init__(self, folder: str, limit: int, generation: int = 0) -> None:
        self._folder, self._limit, self._used, self._generation = folder, limit, 0, generation
        self._items: dict[int, torch.Tensor | str] = {}

    def successor(self) -> Kept:
        """An empty one that takes this one's place."""
        return Kept(self._folder, self._limit, self._generation + 1)

    def put(self, number: int, tensor: torch.Tensor) -> None:
        from safetensors.torch import save_file

        before = self._items.get(number)
        if isinstance(before, torch.Tensor):
            self._used -= before.nbytes
        if self._used + tensor.nbytes <= self._limit:
            self._items[number], self._used = tensor, self._used + tensor.nbytes
        else:
            path = os.path.join(self._folder, f"inputs-{self._generation % 2}-{number}.safetensors")
            save_file({"x": tensor.contiguous()}, path)
            self._items[number] = path

    def get(self, number: int) -> torch.Tensor:
        from safetensors.torch import load_file

        item = self._items[number]
        return load_file(item)["x"] if isinstance(item, str) else item


def parts(
    model: RunnableModel, data: Data, sites: Sites, names: Sequence[str], *, sequential: bool, folder: str, limit: int
) -> Iterator[Part]:
    """The parts in the order in which they run. ``names``: layers that are wanted; parts without any are still passed through."""
    blocks = find_blocks(model)
    if blocks:
        row = _Row(model, data, sites, blocks, Kept(folder, limit))
        if row.usable():
            yield from row.parts(names)
            return
    order = _order(model, data, sites, names)
    step = max(1, -(-len(order) // MOST_PARTS)) if sequential else max(len(order), 1)
    for first in range(0, len(order), step):
        yield _Whole(model, data, sites, order[first : first + step])


def find_blocks(model: RunnableModel) -> str:
    """The name of the list of alike modules that holds most of the model's parameters; "" when none holds half of what it
    runs."""
    sizes: dict[str, int] = {}
    for name, module in model.module.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len({type(child) for child in module}) == 1:
            sizes[name] = sum(p.numel() for p in module.parameters())
    best = max(sizes, key=lambda name: sizes[name], default="")
    embeddings = {m.weight for m in model.module.modules() if isinstance(m, torch.nn.Embedding)}
    total = sum(p.numel() for p in model.module.parameters() if p not in embeddings)
    return best if best and sizes[best] * 3 >= total else ""


def row_of(model: RunnableModel, data: Data, sites: Sites) -> str:
    """The name of the blocks that are run one after the other; "" for a model that is run as a whole."""
    name = find_blocks(model)
    return name if name and _Row(model, data, sites, name, Kept("", 1 << 62)).usable() else ""


class _Row:
    """Blocks in a row. ``usable`` runs the model once with the blocks left out, to see that each is given what the one before
    gave."""

    def __init__(self, model: RunnableModel, data: Data, sites: Sites, name: str, kept: Kept) -> None:
        self.model, self.data, self.sites, self.name, self.kept = model, data, sites, name, kept
        found: Any = model.module
        for word in name.split("."):
            found = getattr(found, word)
        self.blocks: list[torch.nn.Module] = list(found)
        self.calls: dict[tuple[int, int], tuple[tuple, dict]] = {}
        self.outputs: Any = None
        self._names = {place.parameter: stored for stored, place in model.places.items()}

    def usable(self) -> bool:
        try:
            batch = next(iter(self.data.batches()))
            self._probe(batch)
            return self._pass(0, batch)
        except (IndexError, TypeError, ValueError, RuntimeError):
            return False

    def parts(self, names: Sequence[str]) -> Iterator[Part]:
        inside = [self._layers_of(index) for index in range(len(self.blocks))]
        outside = [name for name in names if not any(name in layers for layers in inside)]
        before = self._before(outside) if outside else frozenset()
        if before:
            yield _Around(self, before, first=True)
        for number, batch in enumerate(self.data.batches()):
            self._pass(number, batch)
        for index, layers in enumerate(inside):
            yield _Block(self, index, layers)
        after = frozenset(outside) - before
        if after:
            yield _Around(self, after, first=False)

    def _layers_of(self, index: int) -> frozenset[str]:
        prefix = f"{self.name}.{index}."
        stored = [layer.name for layer in self.model.summary.layers for place in [self.model.places.get(layer.tensor.name)]
                  if place and place.parameter.startswith(prefix)]  # fmt: skip
        return frozenset(stored)

    def _before(self, names: Sequence[str]) -> frozenset[str]:
        """Layers that run before the first block."""
        visitor = _Reached()
        batch = next(iter(self.data.batches()))
        with self._replaced({0: _stop}), Watched(self.sites, visitor.visit), _until_stopped():
            call(self.model, batch)
        return frozenset(names) & visitor.names.keys()

    def _probe(self, batch: Batch) -> None:
        """What a block gives back: a tensor, or one in a tuple."""
        caught: list[Any] = []
        block = self.blocks[0]
        forward = block.forward

        def run(*args: Any, **kwargs: Any) -> Any:
            caught.append(forward(*args, **kwargs))
            raise _Stop

        with self._replaced({0: run}), Watched(self.sites, Products().run), _until_stopped():
            call(self.model, batch)
        self.outputs = caught[0]

    def as_output(self, hidden: torch.Tensor) -> Any:
        return (hidden, *self.outputs[1:]) if isinstance(self.outputs, tuple) else hidden

    @staticmethod
    def hidden_of(output: Any) -> torch.Tensor:
        return output[0] if isinstance(output, tuple) else output

    def _pass(self, number: int, batch: Batch) -> bool:
        """Run what is around the blocks and note each block's arguments; whether the blocks hang together as a row."""
        alike = True
        given: list[torch.Tensor] = []

        def stub(index: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                nonlocal alike
                hidden = args[0] if args else kwargs["hidden_states"]
                alike = alike and (not given or hidden is given[-1])
                rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
                self.calls[number, index] = (args[1:], rest)
                given.append(hidden)
                if index == len(self.blocks) - 1:
                    raise _Stop
                return self.as_output(hidden)

            return forward

        with self._replaced({index: stub(index) for index in range(len(self.blocks))}), _until_stopped():
            call(self.model, batch)
        if len(given) != len(self.blocks):
            return False
        self.kept.put(number, given[0])
        return (
            alike
            and isinstance(self.hidden_of(self.outputs), torch.Tensor)
            and self.hidden_of(self.outputs).shape == given[0].shape
        )

    @contextmanager
    def _replaced(self, forwards: dict[int, Callable[..., Any]]) -> Iterator[None]:
        """Other forwards in the place of some blocks' own."""
        try:
            for index, forward in forwards.items():
                self.blocks[index].forward = forward
            yield
        finally:
            for index in forwards:
                del self.blocks[index].forward


class _Block(Part):
    def __init__(self, row: _Row, index: int, layers: frozenset[str]) -> None:
        self._row, self._index, self.layers = row, index, layers

    def run(self, visitor: Visitor, check: Callable[[], None], *, keep: bool = False) -> None:
        row, ending = self._row, _Ending()
        after = row.kept.successor()
        for number, batch in enumerate(row.data.batches()):
            check()
            visitor.begin(batch)
            args, kwargs = row.calls[number, self._index]
            output = None
            visit = visitor.visit if keep else ending.visit(visitor)
            with explained(row.model), Watched(row.sites, visit), _until_stopped():
                output = row.blocks[self._index](row.kept.get(number), *args, **kwargs)
            ending.end()
            if keep:
                after.put(number, row.hidden_of(output))
        if keep:  # only now: a pass that is broken off can be started again
            row.kept = after


class _Ending:
    """Where the first batch multiplied last, later ones stop: what a block gives is not wanted, only what its layers are
    given."""

    def __init__(self) -> None:
        self._order: list[str] = []
        self._last = ""

    def visit(self, visitor: Visitor) -> Callable[[Operator], torch.Tensor]:
        seen: list[str] = []
        self._order = seen

        def visit(operator: Operator) -> torch.Tensor:
            seen.append(operator.uses[0].layer.name)
            if seen[-1] == self._last:
                visitor.look(operator)
                raise _Stop
            return visitor.visit(operator)

        return visit

    def end(self) -> None:
        """A batch is done; layers that come twice, or not always in this order, are never stopped at."""
        routed = any(map(is_routed, self._order))  # tokens go to other experts in other batches
        if not self._last and self._order and not routed and len(set(self._order)) == len(self._order):
            self._last = self._order[-1]


class _Around(Part):
    """What runs before the first block, or after the last."""

    def __init__(self, row: _Row, layers: frozenset[str], *, first: bool) -> None:
        self._row, self.layers, self._first = row, layers, first

    def run(self, visitor: Visitor, check: Callable[[], None], *, keep: bool = False) -> None:
        row, last = self._row, len(self._row.blocks) - 1
        for number, batch in enumerate(row.data.batches()):
            check()
            visitor.begin(batch)

            def forward(*args: Any, number: int = number, index: int = -1, **kwargs: Any) -> Any:
                return row.as_output(row.kept.get(number) if index == last else (args[0] if args else kwargs["hidden_states"]))

            def stub(index: int, forward: Callable[..., Any] = forward) -> Callable[..., Any]:
                return lambda *args, **kwargs: forward(*args, index=index, **kwargs)

            stubs = {0: _stop} if self._first else {index: stub(index) for index in range(last + 1)}
            with row._replaced(stubs), Watched(row.sites, visitor.visit), _until_stopped():
                call(row.model, batch)


class _Whole(Part):
    """Layers of a model that is not a row of blocks."""

    def __init__(self, model: RunnableModel, data: Data, sites: Sites, layers: Sequence[str]) -> None:
        self._model, self._data, self._sites, self.layers = model, data, sites, frozenset(layers)
        self._last = layers[-1] if layers else ""

    def run(self, visitor: Visitor, check: Callable[[], None], *, keep: bool = False) -> None:
        for batch in self._data.batches():
            check()
            visitor.begin(batch)
            with Watched(self._sites, visitor.visit):
                call(self._model, batch)


class _Reached:
    """Names of layers in the order in which they are first reached."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}

    def begin(self, batch: Batch) -> None:
        pass

    def look(self, operator: Operator) -> None:
        pass

    def visit(self, operator: Operator) -> torch.Tensor:
        self.names.update(dict.fromkeys(use.layer.name for use in operator.uses))
        return operator.run()


def _order(model: RunnableModel, data: Data, sites: Sites, names: Sequence[str]) -> list[str]:
    reached = _Reached()
    batch = next(iter(data.batches()))
    with Watched(sites, reached.visit):
        call(model, batch)
    wanted = set(names)
    return [name for name in reached.names if name in wanted]


def call(model: RunnableModel, batch: Batch) -> Any:
    """One forward, without a cache of keys and values where the model has one. Raises DataError where it cannot run."""
    with explained(model):
        if model.cached and "use_cache" not in batch.keywords:
            return model.module(*batch.arguments, **batch.keywords, use_cache=False)
        return batch(model.module)


@contextmanager
def explained(model: RunnableModel) -> Iterator[None]:
    """What a forward says of data that do not suit it, in one sentence; what comes from our own code stays as it is."""
    try:
        yield
    except MemoryError:
        raise DataError("There is not enough memory for this model on this data; use a smaller batch.") from None
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, NotImplementedError) as error:
        if traceback.extract_tb(error.__traceback__)[-1].filename.startswith(OWN_FOLDER):
            raise
        if "can't allocate memory" in str(error):
            raise DataError("There is not enough memory for this model on this data; use a smaller batch.") from None
        names = ", ".join(info.name for info in model.inputs.arguments if info.required)
        first = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else "no reason given"
        takes = f" It takes {names}." if names else ""
        what = f"The model cannot run on this data ({type(error).__name__}: {first}).{takes}"
        raise DataError(what, details=traceback.format_exc()) from None


def _stop(*args: Any, **kwargs: Any) -> Any:
    raise _Stop


@contextmanager
def _until_stopped() -> Iterator[None]:
    with suppress(_Stop):
        yield
