"""What a pickle would do, found without doing any of it: before torch unpickles weights, so that nothing grows or recurses.

``torch.load(weights_only=True)`` runs no code of a file. It still builds what a few bytes ask for: a bytearray of any size, a
text encoded over and over, nested tuples whose hash takes forever. Plain weights need little, and anything else is refused here.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_OPERATIONS = 300_000
PER_RECORD = 200
"""Operations that a pickle may have, and more of them for each record of its archive; a tensor takes about 30."""
MAX_DEPTH = 100
MAX_HASHED = 1_000_000
"""Values in all keys of dictionaries: shared tuples make a few bytes stand for any number of them."""
_CALLS = {
    "collections OrderedDict", "collections Counter", "torch Size", "torch device", "builtins set", "builtins complex",
    "torch._tensor _rebuild_from_type_v2", "torch.serialization _get_layout", "_codecs encode", "__builtin__ set",
    "__builtin__ complex", "torch.nn.parameter Parameter",
}  # fmt: skip
"""What plain weights call, beside ``torch._utils``."""
_CALLING = {"INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}

_LATER = {"STACK_GLOBAL", "MEMOIZE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}


class Refused(Exception):
    """``str``: why, to be put behind the path."""


@dataclass(frozen=True, slots=True)
class _Value:
    """A value on the stack: how many values hashing it would visit, how deep, and of texts, functions and tuples what it is."""

    weight: int = 1
    depth: int = 0
    what: Any = None


_PLAIN = _Value()
_MARK = _Value()


def scan(data: bytes, records: int) -> None:
    """Raises Refused for a pickle that is not one of plain weights, or is damaged."""
    try:
        _Scanner(MAX_OPERATIONS + PER_RECORD * records).scan(data)
    except Refused:
        raise
    except (ValueError, IndexError, KeyError, UnicodeDecodeError, AttributeError, TypeError):
        raise Refused("cannot be read as a state dict; its pickle is damaged") from None


class _Scanner:
    def __init__(self, most: int) -> None:
        self._most, self._hashed = most, 0
        self._stack: list[_Value] = []
        self._memo: dict[int, _Value] = {}
        self._steps: dict[str, Callable[[Any], object]] = {
            "MARK": lambda _: self._stack.append(_MARK),
            "GLOBAL": lambda name: self._stack.append(_Value(what=name)),
            "BINUNICODE": self._text, "SHORT_BINSTRING": self._text,
            "TUPLE": lambda _: self._tuple(self._to_mark()),
            "TUPLE1": lambda _: self._tuple(self._top(1)),
            "TUPLE2": lambda _: self._tuple(self._top(2)),
            "TUPLE3": lambda _: self._tuple(self._top(3)),
            "APPEND": lambda _: self._top(1),
            "APPENDS": lambda _: self._to_mark(),
            "SETITEM": lambda _: self._hash(self._top(2)[::2]),
            "SETITEMS": lambda _: self._hash(self._to_mark()[::2]),
            "BINPUT": self._put, "LONG_BINPUT": self._put,
            "BINGET": self._get, "LONG_BINGET": self._get,
            "REDUCE": self._call, "NEWOBJ": self._call,
            "BUILD": lambda _: self._top(1),
            "BINPERSID": self._persistent,
            "PROTO": self._protocol, "FRAME": lambda _: None, "STOP": lambda _: None,
        }  # fmt: skip

    def scan(self, data: bytes) -> None:
        steps, plain = self._steps, self._stack
        for count, (operation, argument, _) in enumerate(pickletools.genops(data), 1):
            if count > self._most:
                raise Refused("holds far more than the weights of its archive; it is refused")
            name = operation.name
            step = steps.get(name)
            if step:
                step(argument)
            elif name in _CALLING:
                raise Refused(f"has a pickle that calls code ({name}), which weights never do; save model.state_dict() instead")
            elif name in _LATER:
                raise Refused("was saved with a pickle protocol above 2; save it with torch.save's usual one")
            elif operation.stack_after and not operation.stack_before:
                plain.append(_PLAIN)
            else:
                raise Refused(f"has a pickle with the operation {name}, which torch.save never writes")

    def _text(self, text: Any) -> None:
        self._stack.append(_Value(what=text))

    def _top(self, count: int) -> list[_Value]:
        if len(self._stack) < count:
            raise IndexError
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _to_mark(self) -> list[_Value]:
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise IndexError
        taken = self._stack[place + 1 :]
        del self._stack[place:]
        return taken

    def _tuple(self, items: list[_Value]) -> None:
        depth = 1 + max((item.depth for item in items), default=0)
        weight = 1 + sum(item.weight for item in items)
        if depth > MAX_DEPTH or weight > MAX_HASHED:
            raise Refused("holds tuples nested without end; it is refused")
        self._stack.append(_Value(weight, depth, tuple(item.what for item in items) if len(items) < 4 else None))

    def _hash(self, keys: list[_Value]) -> None:
        self._hashed += sum(key.weight for key in keys if key.weight > 1)
        if self._hashed > MAX_HASHED:
            raise Refused("holds keys nested without end; it is refused")

    def _put(self, place: Any) -> None:
        self._memo[place] = self._stack[-1]

    def _get(self, place: Any) -> None:
        self._stack.append(self._memo[place])

    def _call(self, _: Any) -> None:
        function, arguments = self._top(2)
        name = str(function.what)
        self._hash([arguments])
        if not name.startswith("torch._utils ") and name not in _CALLS:
            raise Refused(
                f"is a pickled object ({name.replace(' ', '.')[:80]}), not plain weights; opening it would run code from the "
                "file; save model.state_dict() instead"
            )
        if name == "_codecs encode" and not (isinstance(arguments.what, tuple) and arguments.what[1:] == ("latin1",)):
            raise Refused("holds bytes encoded in a way that torch.save never writes; it is refused")
        self._stack.append(_PLAIN)

    def _persistent(self, _: Any) -> None:
        self._top(1)
        self._stack.append(_PLAIN)

    @staticmethod
    def _protocol(version: Any) -> None:
        if version > 2:
            raise Refused(f"was saved with pickle protocol {version}; save it with torch.save's usual one")
