"""How a row of the runs is painted: tags behind the name, a bar while it goes, a link for what can be done."""

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QRect, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter
from PySide6.QtWidgets import QApplication, QStyle, QStyledItemDelegate, QStyleOptionViewItem

from mono_quant_gui import theme
from mono_quant_gui.models.runs import ACTION, NAME, RESULT, SHARE, TAGS

HEIGHT = 25
BAR = 160
"""Most that a bar takes of its column."""


class RunDelegate(QStyledItemDelegate):
    """Everything else is painted as it is everywhere."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        return QSize(super().sizeHint(option, index).width(), theme.px(HEIGHT))

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        share, tags = index.data(SHARE), index.data(TAGS)
        if index.column() == ACTION:
            self._paint(
                painter,
                option,
                index,
                lambda area, font: self._link(painter, area, font, index.data() or ""),
            )
        elif index.column() == RESULT and share is not None:
            self._paint(painter, option, index, lambda area, font: self._bar(painter, area, font, share, index.data() or ""))
        elif index.column() == NAME and tags:
            self._paint(painter, option, index, lambda area, font: self._tagged(painter, area, font, index.data() or "", tags))
        else:
            super().paint(painter, option, index)

    def _paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex, inside) -> None:
        """The row's background, and then what is ours."""
        bare = QStyleOptionViewItem(option)
        self.initStyleOption(bare, index)
        font, bare.text = bare.font, ""  # type: ignore[attr-defined]
        style = option.widget.style() if option.widget else QApplication.style()
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, bare, painter, option.widget)
        painter.save()
        painter.setPen(QColor(theme.current().text))
        inside(option.rect.adjusted(4, 0, -4, 0), font)
        painter.restore()

    def _words(self, painter: QPainter, area: QRect, font: QFont, words: str) -> int:
        """Elided on the right; returns how much room they took."""
        metrics = QFontMetrics(font)
        shown = metrics.elidedText(words, Qt.TextElideMode.ElideRight, area.width())
        painter.setFont(font)
        painter.drawText(area, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, shown)
        return metrics.horizontalAdvance(shown)

    def _link(self, painter: QPainter, area: QRect, font: QFont, words: str) -> None:
        painter.setPen(QColor(theme.current().accent))
        self._words(painter, area.adjusted(8, 0, 0, 0), font, words)

    def _bar(self, painter: QPainter, area: QRect, font: QFont, share: float, words: str) -> None:
        colors = theme.current()
        bar = QRect(area.left(), area.center().y() - 3, min(BAR, area.width() // 3), 7)
        painter.fillRect(bar, QColor(colors.line))
        painter.fillRect(bar.adjusted(0, 0, round(bar.width() * (share - 1)), 0), QColor(colors.accent))
        painter.setPen(QColor(colors.muted))
        self._words(painter, area.adjusted(bar.width() + 10, 0, 0, 0), font, words)

    def _tagged(self, painter: QPainter, area: QRect, font: QFont, words: str, tags: list[str]) -> None:
        """Tags have up to half of the room, and the name what is left."""
        colors = theme.current()
        small = QFont(font)
        small.setBold(False)
        small.setPixelSize(theme.px(11))
        metrics = QFontMetrics(small)
        widths = [metrics.horizontalAdvance(tag) + 10 for tag in tags]
        wanted = min(sum(widths) + 4 * len(widths) + 4, area.width() // 2)
        taken = self._words(painter, area.adjusted(0, 0, -wanted, 0), font, words) + 8
        painter.setFont(small)
        for tag, width in zip(tags, widths, strict=True):
            room = area.adjusted(taken, 3, 0, -3)
            if width > room.width():
                break
            room.setWidth(width)
            painter.setPen(QColor(colors.muted))
            painter.drawRoundedRect(room, 6, 6)
            painter.drawText(room, Qt.AlignmentFlag.AlignCenter, tag)
            taken += width + 4
