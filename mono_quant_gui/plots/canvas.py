"""What all plots share: a matplotlib canvas in the window's palette."""

from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from PySide6.QtWidgets import QSizePolicy, QWidget

from mono_quant_gui import theme


class PlotCanvas(FigureCanvasQTAgg):
    """A figure without frames and with a horizontal grid only; ``redraw`` draws it from scratch."""

    def __init__(self, parent: QWidget | None = None) -> None:
        self.figure = Figure(layout="constrained")
        super().__init__(self.figure)
        self.setParent(parent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setMinimumHeight(120)

    def clear(self):
        """Empty axes in the current theme."""
        colors = theme.current()
        self.figure.clear()
        self.figure.set_facecolor(colors.panel)
        axes = self.figure.add_subplot()
        axes.set_facecolor(colors.panel)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.grid(axis="y", color=colors.line, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=colors.muted, labelsize=8, length=0)
        return axes

    def legend(self, axes, handles, labels) -> None:
        """Above the axes, to the right."""
        colors = theme.current()
        axes.legend(
            handles, labels, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(labels), frameon=False,
            fontsize=8.5, labelcolor=colors.text, handlelength=0.9, handleheight=0.9, borderaxespad=0.2, columnspacing=1.2,
        )  # fmt: skip
