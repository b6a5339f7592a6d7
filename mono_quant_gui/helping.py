"""The help: the project's own README files, cut into pages, with the keyboard's page made from the actions themselves."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import engine
from mono_quant_gui.i18n import tr

_HEAD = re.compile(r"^(#{1,2}) +(.+?)\s*$")
_PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n|!\[[^\]]*\]\([^)]*\)", re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~)")


@dataclass(frozen=True, slots=True)
class Section:
    """One page of the help, in Markdown without pictures."""

    title: str
    markdown: str


def sections(keys: Iterable[tuple[str, str]]) -> list[Section]:
    """Every page; ``keys`` are actions' titles and shortcuts."""
    user = cut(_read(_user_readme()))
    contributor = [
        Section(tr("Engine: {title}").format(title=page.title), page.markdown) for page in cut(_read(_engine_readme()))
    ]
    return [*user[:1], keyboard(keys), *user[1:], *contributor]


def keyboard(keys: Iterable[tuple[str, str]]) -> Section:
    """The page of shortcuts."""
    title, action, keys_words = tr("Keyboard"), tr("Action"), tr("Keys")  # lupdate does not look into f-strings
    head = f"## {title}\n\n| {action} | {keys_words} |\n|---|---|\n"
    rows = [f"| {words} | {shortcut} |" for words, shortcut in keys if shortcut]
    more = tr(
        "Tab moves between the fields of a pane; a letter underlined in a menu or label is reached with Alt and that letter."
    )
    return Section(title, head + "\n".join(rows) + f"\n\n{more}\n")


def cut(markdown: str) -> list[Section]:
    """A page a heading of the first two levels; fenced code may hold lines that look like headings."""
    pages: list[tuple[str, list[str]]] = []
    fenced = False
    for line in _PICTURE.sub("", markdown).splitlines():
        fenced ^= bool(_FENCE.match(line))
        head = None if fenced else _HEAD.match(line)
        if head:
            pages.append((head[2], [line]))
        elif pages:
            pages[-1][1].append(line)
    return [Section(title, "\n".join(lines).strip() + "\n") for title, lines in pages]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        head, words = tr("Missing"), tr("The file {path} of this installation cannot be read.")
        return f"# {head}\n\n{words.format(path=path)}\n"


def _user_readme() -> Path:
    """Inside the installed package, or at the top of the source tree."""
    packaged = Path(__file__).parent / "assets" / "README.md"
    return packaged if packaged.is_file() else Path(__file__).parent.parent / "README.md"


def _engine_readme() -> Path:
    return Path(engine.__file__).parent / "README.md"
