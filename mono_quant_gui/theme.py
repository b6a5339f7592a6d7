"""Colours, fonts and the style sheet. Fusion with an explicit palette: platforms do not report theirs alike."""

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PySide6.QtCore import QByteArray, QPoint, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontDatabase, QFontInfo, QIcon, QPainter, QPalette, QPen, QPixmap
from PySide6.QtWidgets import QApplication


@dataclass(frozen=True, slots=True)
class Theme:
    """One set of colours; the two sides of every comparison look the same everywhere."""

    dark: bool
    window: str
    panel: str
    line: str
    text: str
    muted: str
    accent: str
    on_accent: str
    selection: str
    float_: str
    quantized: str
    bad: str
    warning: str
    good: str
    series: tuple[str, ...]
    """Colours of schemes beside one another, told apart by the colour-blind too (Okabe and Ito 2008)."""


LIGHT = Theme(
    False, "#F5F6F8", "#FFFFFF", "#DADDE3", "#1D2430", "#6A7383", "#1F6FD1", "#FFFFFF", "#DCE8FA",
    "#8A94A6", "#0072B2", "#D55E00", "#E69F00", "#009E73",
    ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
)  # fmt: skip
DARK = Theme(
    True, "#1B1E24", "#22262E", "#363C47", "#E3E7EE", "#98A2B3", "#5AA2F5", "#11151B", "#2B4468",
    "#8793A8", "#56B4E9", "#F0824A", "#F0C04A", "#3CC79A",
    ("#56B4E9", "#3CC79A", "#E29CC4", "#F0C04A", "#3D7FB8"),
)  # fmt: skip

_current = LIGHT
TEXT_PX = 13
"""Height of the text where the system asks for no larger one."""
_scale = 1.0


def px(pixels: float) -> int:
    """Pixels of a layout made for text of 13, where the system's text is larger."""
    return round(pixels * _scale)


def scale() -> float:
    """How much larger text is than 13 pixels: 1 to 3."""
    return _scale


def _system_scale() -> float:
    """From the system's own font, so that who has made text larger everywhere has it larger here."""
    wanted = QFontInfo(QFontDatabase.systemFont(QFontDatabase.SystemFont.GeneralFont)).pixelSize()
    return min(max(wanted / TEXT_PX, 1.0), 3.0)


def current() -> Theme:
    """The theme in force."""
    return _current


def muted() -> QColor:
    """Of words that stand back."""
    return QColor(_current.muted)


def apply(app: QApplication, choice: str) -> None:
    """Set "light", "dark" or "system" for the whole application."""
    global _current, _scale
    system_dark = app.styleHints().colorScheme() == Qt.ColorScheme.Dark
    _current = DARK if choice == "dark" or (choice == "system" and system_dark) else LIGHT
    _scale = _system_scale()
    app.setStyle("Fusion")
    app.setPalette(_palette(_current))
    app.setStyleSheet(_sheet(_current))
    font = app.font()
    font.setPixelSize(px(TEXT_PX))
    font.setFeature(QFont.Tag("tnum"), 1)  # figures of one width, where the font has others
    app.setFont(font)


def monospace() -> QFont:
    """For names of layers."""
    font = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
    font.setPixelSize(px(TEXT_PX - 1))
    return font


def icons_folder() -> Path:
    """Shipped icons: inside the installed package, or in the source tree."""
    packaged = Path(__file__).parent / "assets" / "icons"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "assets" / "icons"


def icon(name: str, color: str | None = None) -> QIcon:
    """A toolbar icon drawn in the theme's text colour, or another."""
    return _icon(name, color or _current.text, _current.muted)


@cache
def _icon(name: str, color: str, muted: str) -> QIcon:
    from PySide6.QtSvg import QSvgRenderer

    path = icons_folder() / f"{name}.svg"
    if not path.is_file():
        return QIcon()
    renderer = QSvgRenderer(QByteArray(path.read_bytes().replace(b"#1D2430", color.encode())))
    result = QIcon()
    for side in (16, 32, 64, 128):
        picture = QPixmap(QSize(side, side))
        picture.fill(Qt.GlobalColor.transparent)
        painter = QPainter(picture)
        renderer.render(painter)
        painter.end()
        result.addPixmap(picture)
        faded = QPixmap(picture.size())
        faded.fill(Qt.GlobalColor.transparent)
        painter = QPainter(faded)
        painter.drawPixmap(0, 0, picture)
        painter.setCompositionMode(QPainter.CompositionMode.CompositionMode_SourceIn)
        painter.fillRect(faded.rect(), QColor(muted))
        painter.end()
        result.addPixmap(faded, QIcon.Mode.Disabled)
    return result


def _palette(t: Theme) -> QPalette:
    palette = QPalette()
    role, group = QPalette.ColorRole, QPalette.ColorGroup
    colors = {
        role.Window: t.window, role.WindowText: t.text, role.Base: t.panel, role.AlternateBase: t.window,
        role.Text: t.text, role.Button: t.panel, role.ButtonText: t.text, role.Highlight: t.selection,
        role.HighlightedText: t.text, role.ToolTipBase: t.panel, role.ToolTipText: t.text, role.Link: t.accent,
        role.PlaceholderText: t.muted, role.Mid: t.line, role.Midlight: t.line, role.Dark: t.line, role.Light: t.panel,
        role.Accent: t.accent, role.BrightText: t.bad,
    }  # fmt: skip
    for key, color in colors.items():
        palette.setColor(key, QColor(color))
    for key in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(group.Disabled, key, QColor(t.muted))
    return palette


@cache
def _pictures() -> Path:
    """A style sheet takes a picture by its path only: here they are, drawn once a session."""
    folder = Path(tempfile.mkdtemp(prefix="mono-quant-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _arrow(t: Theme, which: str = "down") -> str:
    """The arrow of a combo or spin box in the theme's colour."""
    path = _pictures() / f"{which}-{t.dark}.png"
    icon(which, t.muted).pixmap(32, 32).save(str(path))
    return path.as_posix()


def _mark(t: Theme) -> str:
    """The tick of a check box."""
    path = _pictures() / f"tick-{t.dark}.png"
    picture = QPixmap(26, 26)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(QColor(t.on_accent), 3.5, Qt.PenStyle.SolidLine, Qt.PenCapStyle.RoundCap))
    painter.drawPolyline([QPoint(6, 14), QPoint(11, 19), QPoint(20, 8)])
    painter.end()
    picture.save(str(path))
    return path.as_posix()


def _sheet(t: Theme) -> str:
    return f"""
    QMainWindow, QDialog {{ background: {t.window}; }}
    QMainWindow::separator {{ background: {t.line}; width: 1px; height: 1px; }}
    QToolBar {{ background: {t.panel}; border: none; border-bottom: 1px solid {t.line}; padding: 8px; spacing: 8px; }}
    QToolBar#viewed {{ background: {t.selection}; padding: 4px 8px; }}
    QMenuBar {{ background: {t.panel}; padding: 4px; }}
    QMenuBar::item {{ padding: 4px 8px; background: transparent; border-radius: 4px; }}
    QMenuBar::item:selected {{ background: {t.selection}; }}
    QMenu {{ background: {t.panel}; border: 1px solid {t.line}; padding: 4px; }}
    QMenu::item {{ padding: 4px 24px 4px 12px; border-radius: 4px; }}
    QMenu::item:selected {{ background: {t.selection}; }}
    QMenu::item:disabled {{ color: {t.muted}; }}
    QMenu::separator {{ height: 1px; background: {t.line}; margin: 4px 8px; }}
    QStatusBar {{ background: {t.window}; border-top: 1px solid {t.line}; color: {t.muted}; }}
    QStatusBar::item {{ border: none; }}
    QStatusBar QLabel {{ color: {t.muted}; padding: 0 8px; }}
    QDockWidget {{ titlebar-close-icon: none; }}
    QFrame#pane {{ background: {t.panel}; border: none; }}
    QLabel[role="head"] {{ color: {t.muted}; font-size: {px(11)}px; font-weight: 600; }}
    QLabel[role="muted"], QLabel[role="hint"] {{ color: {t.muted}; }}
    QLabel[role="strong"] {{ font-weight: 600; }}
    QLabel[role="empty"] {{ color: {t.muted}; font-size: {px(14)}px; }}
    QLabel[role="problem"] {{ border: 1px solid {t.warning}; border-radius: 6px; padding: 8px; background: {t.panel}; }}
    QLabel[role="error"] {{ border: 1px solid {t.bad}; border-radius: 6px; padding: 8px; background: {t.panel}; }}
    QPushButton, QToolButton {{
        background: {t.panel}; border: 1px solid {t.line}; border-radius: 6px; padding: 4px 12px; min-height: {px(18)}px; }}
    QToolButton[kind="choice"] {{ padding: 0 4px; min-height: {px(20)}px; font-size: {px(12)}px; }}
    QPushButton[kind="small"] {{ padding: 4px 8px; min-height: {px(14)}px; }}
    QToolButton:checked {{ background: {t.selection}; border-color: {t.accent}; }}
    QToolButton[kind="icon"] {{ padding: 4px; min-height: {px(14)}px; border-color: transparent; }}
    QToolButton::menu-indicator {{ image: none; }}
    QToolButton[kind="split"] {{ padding-right: 28px; }}
    QToolButton[kind="split"]::menu-button {{ border: none; border-left: 1px solid {t.line}; width: 20px; margin: 4px 0; }}
    QToolButton[kind="split"]::menu-arrow {{ image: url("{_arrow(t)}"); width: 10px; height: 10px; }}
    QPushButton:hover, QToolButton:hover {{ border-color: {t.accent}; }}
    QPushButton:pressed, QToolButton:pressed {{ background: {t.selection}; }}
    QPushButton:disabled, QToolButton:disabled {{ color: {t.muted}; border-color: {t.line}; }}
    QPushButton:focus, QToolButton:focus {{ border-color: {t.accent}; }}
    QPushButton[kind="primary"] {{
        background: {t.accent}; color: {t.on_accent}; border-color: {t.accent}; font-weight: 600; }}
    QPushButton[kind="primary"]:disabled {{ background: {t.line}; color: {t.muted}; border-color: {t.line}; }}
    QPushButton[kind="link"] {{ border: none; color: {t.accent}; background: transparent;
        padding: 0 4px; min-height: {px(20)}px; }}
    QPushButton[kind="link"]:disabled {{ color: {t.muted}; }}
    QPushButton[kind="menu"] {{ text-align: left; padding: 4px 8px; min-height: {px(18)}px; }}
    QPushButton[kind="menu"]::menu-indicator {{
        image: url("{_arrow(t)}"); width: 10px; height: 10px; subcontrol-origin: padding;
        subcontrol-position: right center; right: 8px; }}
    QPlainTextEdit {{ background: {t.panel}; border: 1px solid {t.line}; border-radius: 6px; padding: 4px; }}
    QFrame#framed {{ background: {t.panel}; border: 1px solid {t.warning}; border-radius: 6px; }}
    QFrame#problems {{ background: {t.panel}; border: 1px solid {t.line}; border-radius: 6px; }}
    QFrame#problems[severity="warning"] {{ border-color: {t.warning}; }}
    QFrame#problems[severity="error"] {{ border-color: {t.bad}; }}
    QLineEdit, QComboBox, QSpinBox, QDoubleSpinBox {{
        background: {t.panel}; border: 1px solid {t.line}; border-radius: 6px; padding: 4px 8px; min-height: {px(18)}px;
        selection-background-color: {t.accent}; selection-color: {t.on_accent}; }}
    QLineEdit:focus, QComboBox:focus, QSpinBox:focus, QDoubleSpinBox:focus {{ border-color: {t.accent}; }}
    QLineEdit:disabled, QComboBox:disabled, QSpinBox:disabled, QDoubleSpinBox:disabled {{
        color: {t.muted}; background: {t.window}; }}
    QComboBox QAbstractItemView {{
        background: {t.panel}; border: 1px solid {t.line}; selection-background-color: {t.selection}; }}
    QComboBox::drop-down {{ border: none; width: 22px; }}
    QComboBox::down-arrow {{ image: url("{_arrow(t)}"); width: 10px; height: 10px; }}
    QAbstractSpinBox::up-button, QAbstractSpinBox::down-button {{ border: none; width: 18px; background: transparent; }}
    QAbstractSpinBox::up-arrow {{ image: url("{_arrow(t, "up")}"); width: 9px; height: 9px; }}
    QAbstractSpinBox::down-arrow {{ image: url("{_arrow(t)}"); width: 9px; height: 9px; }}
    QLineEdit > QToolButton {{ border: none; padding: 0; min-height: 0; background: transparent; }}
    QCheckBox::indicator, QMenu::indicator {{
        width: 13px; height: 13px; border: 1px solid {t.muted}; border-radius: 3px; background: {t.panel}; }}
    QCheckBox::indicator:checked {{ background: {t.accent}; border-color: {t.accent}; image: url("{_mark(t)}"); }}
    QMenu::indicator {{ margin-left: 4px; }}
    QMenu::indicator:checked {{ background: {t.accent}; border-color: {t.accent}; }}
    QTableView, QListView, QTreeView {{
        background: {t.panel}; border: none; gridline-color: {t.line}; selection-background-color: {t.selection};
        selection-color: {t.text}; outline: none; }}
    QHeaderView {{ background: {t.window}; }}
    QHeaderView::section {{
        background: {t.window}; color: {t.muted}; border: none; border-bottom: 1px solid {t.line}; padding: 4px;
        font-size: {px(11)}px; font-weight: 600; }}
    QProgressBar {{
        border: none; border-radius: 4px; background: {t.line}; max-height: 8px; min-height: 8px; text-align: center; }}
    QProgressBar::chunk {{ background: {t.accent}; border-radius: 4px; }}
    QSplitter::handle {{ background: {t.line}; }}
    QSplitter::handle:horizontal {{ width: 1px; }}
    QSplitter::handle:vertical {{ height: 1px; }}
    QScrollArea {{ border: none; background: {t.panel}; }}
    QScrollBar:vertical {{ background: transparent; width: 10px; margin: 0; }}
    QScrollBar:horizontal {{ background: transparent; height: 10px; margin: 0; }}
    QScrollBar::handle {{ background: {t.line}; border-radius: 4px; min-height: 24px; min-width: 24px; margin: 1px; }}
    QScrollBar::handle:hover {{ background: {t.muted}; }}
    QScrollBar::add-line, QScrollBar::sub-line {{ width: 0; height: 0; }}
    QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}
    QToolTip {{ background: {t.panel}; color: {t.text}; border: 1px solid {t.line}; padding: 4px; }}
    """
