"""Every word that the window shows can be translated: literals go through ``tr``, and lupdate finds each of them.

Exits with 1 and one line for each that cannot. Run by ``make check``.
"""

import ast
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SINKS = {
    "setText", "setToolTip", "setStatusTip", "setWindowTitle", "setTitle", "setPlaceholderText", "setPlainText",
    "setAccessibleName", "setAccessibleDescription", "setSuffix", "setPrefix", "setSpecialValueText",
    "setHorizontalHeaderLabels", "setHeaderLabels", "addAction", "addMenu", "addItem", "addItems", "addTab", "addRow",
    "QAction", "QLabel", "QPushButton", "QToolButton", "QCheckBox", "QRadioButton", "QGroupBox", "QDockWidget", "QToolBar",
    "label", "ElidedLabel", "action_button", "set_text", "set_xlabel", "set_ylabel", "question", "FieldRow", "Spec",
    "getOpenFileName", "getSaveFileName", "getExistingDirectory", "emit", "_say", "say", "tell", "Command",
}  # fmt: skip
"""Calls whose arguments people read."""
SAME = {"dB", "MB", "GB", "kB", "TOML", "CSV", "SHA-256", "Mono Quant", "model.py", r"*.down_proj, or re:.*layers\.[01]\..*"}
"""The same in every language."""
WORD = re.compile(r"[^\W\d_]{2,}")
NAMES = re.compile(r"[a-z0-9_.*/-]+")
"""Keys, levels, roles and paths of menus, where a call takes those beside words."""
NAMING = {"label", "ElidedLabel", "Spec", "emit", "say", "set_text", "addItem", "addItems"}
KEYS = re.compile(r"(Ctrl|Shift|Alt|Esc|F\d+)\S*( ?[;,] ?\S+)*")


def untranslated(path: Path) -> Iterator[tuple[int, str]]:
    """Line and words of every literal that is shown as it is."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and _name(call.func) in SINKS:
            for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
                for node, words in _literals(argument):
                    if _is_words(words, _name(call.func)):
                        yield node.lineno, words


def _literals(node: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Strings below an argument that reach what is called: not those inside ``tr`` or another call's own arguments."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node, node.value
    elif isinstance(node, ast.JoinedStr):
        for part in node.values:
            if isinstance(part, ast.Constant):
                yield node, str(part.value)
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("join", "format", "strip", "upper"):
            yield from _literals(node.func.value)
    elif isinstance(node, (ast.IfExp, ast.BoolOp, ast.BinOp, ast.List, ast.Tuple, ast.Starred)):
        for child in ast.iter_child_nodes(node):
            if not (isinstance(node, ast.IfExp) and child is node.test):
                yield from _literals(child)


def _is_words(text: str, sink: str) -> bool:
    bare = text.strip(" .,:;·…—–()[]")
    if KEYS.fullmatch(text) or (sink in NAMING and NAMES.fullmatch(text)):
        return False
    return bool(WORD.search(bare)) and bare not in SAME and text not in SAME and not re.fullmatch(r"[\d.]+ ?\w{1,2}", bare)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def marked(path: Path) -> Iterator[tuple[int, str | None]]:
    """Line and text of every call of ``tr``; None where it is given something else than a literal."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "tr":
            value = call.args[0] if len(call.args) == 1 and not call.keywords else None
            yield call.lineno, value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def extracted(files: list[Path], ts: Path) -> set[str]:
    """What lupdate finds in these files; writes it to ``ts``."""
    lupdate = Path(sys.executable).parent / "pyside6-lupdate"
    done = subprocess.run([lupdate, *files, "-ts", ts], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"lupdate failed: {done.stderr.strip()}")
    return {source.text or "" for source in ET.parse(ts).getroot().iter("source")}


def main() -> int:
    files = sorted((ROOT / "mono_quant_gui").rglob("*.py"))
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        found = extracted(files, Path(folder) / "mono_quant.ts")
    for path in files:
        where = path.relative_to(ROOT)
        problems += [f"{where}:{line}: {words!r} is shown and not translated" for line, words in untranslated(path)]
        for line, words in marked(path):
            if words is None:
                problems.append(f"{where}:{line}: tr() takes one literal, so that lupdate finds it")
            elif words not in found:
                problems.append(f"{where}:{line}: lupdate does not find {words!r}")
    print("\n".join(problems) if problems else f"{len(found)} strings of the window can be translated")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
