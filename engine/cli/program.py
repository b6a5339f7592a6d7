"""``mono-quant``: the engine on the command line.

Exit codes: 0 done, 2 the user's mistake, 3 not certified, 130 cancelled, 1 a defect. With ``--json`` stdout carries exactly
one JSON document, whose keys are documented in the README; everything for people goes to stderr.
"""

import gc
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from engine.allocator import keep_freed_memory
from engine.cli.documents import error_document
from engine.cli.parser import make_parser
from engine.errors import Cancelled, DataError, EngineError, Paused, lacks_memory, plain
from engine.records.codec import to_data


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 gets "?", not a traceback
    options = make_parser(arguments).parse_args(arguments)
    try:
        document, text, code = options.command(options)
        print(_json(document) if options.json else text)
        sys.stdout.flush()
        return code
    except EngineError as error:
        if options.json:
            print(_json(error_document(error)))
        elif isinstance(error, DataError) and error.report:
            from engine.cli.text import failure_text

            print(failure_text(error.report))
        hint = " `mono-quant runs list --state unfinished`, then `runs resume`." if isinstance(error, Paused) else ""
        print(f"mono-quant: {plain(str(error))}{hint}", file=sys.stderr)
        return 130 if isinstance(error, Cancelled) else 2
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        print(
            "mono-quant: The machine has not enough memory for this; close other programs or take a smaller model.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("mono-quant: cancelled.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _json(document: Any) -> str:
    """One line of valid JSON; a number that JSON cannot say (which costs a second look) becomes null."""
    try:
        return json.dumps(document, allow_nan=False)
    except ValueError:
        return json.dumps(to_data(document))


def run() -> None:
    """The console command: one short-lived process, in which collecting cycles only costs time."""
    gc.disable()
    keep_freed_memory()
    sys.exit(main())
