"""Charts as SVG inside the page: the same figures give the same text, in the page's colours.

Matplotlib draws with stand-in colours, which become the page's CSS variables, so that one chart
serves light, dark and paper. Identifiers are made unique to the chart, as a page has many.
"""

import html
import io
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from blt.dataset.storage import Place, atomic_path
from blt.inspection.measures import BIN_BITS, MAX_BITS, MAX_PATCH_BIN
from blt.report.style import STYLE

# Stand-ins, and the variables of `style.py` that take their place.
_INK, _GRID = "#010203", "#040506"
_SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04")
_VARIABLES = {
    _INK: "var(--ink-soft)",
    _GRID: "var(--line)",
    **{color: f"var(--series-{number})" for number, color in enumerate(_SERIES, 1)},
}
# One colour and, for paper and the colour-blind, one dash and marker for each method.
_METHOD_STYLES = {"zlib": (_SERIES[2], "-.", "^"), "xz": (_SERIES[3], ":", "D")}
_MODEL_STYLES = ((_SERIES[0], "-", "o"), (_SERIES[1], "--", "s"), (_SERIES[3], ":", "D"))
_SIZE_INCHES = (5.0, 3.1)
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "blt",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.6,
}


def _draw(name: str, description: str, plot: Callable[[Axes], None]) -> str:
    """Returns the SVG element of a chart.

    Args:
      name: unique on the page, an identifier.
      description: what the chart shows, for those who cannot see it.
      plot: draws on the axes.
    """
    buffer = io.StringIO()
    _save(buffer, "svg", _STYLE, plot)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    label = html.escape(description, quote=True)
    head, body = svg.split(">", 1)
    head = re.sub(r' (width|height|xmlns:xlink|xmlns|version)="[^"]*"', "", head)
    body = body.replace("xlink:href", "href")
    return f'{head} role="img" aria-label="{label}">{body.strip()}'


def _save(
    target: Any,
    format: str,
    style: Mapping[str, Any],
    plot: Callable[[Axes], None],
    background: str = "none",
) -> None:
    """Draws a chart and writes it, as "svg" or "png", without anything that tells the time."""
    # No pyplot: it holds figures, and looks for a display. The defaults are matplotlib's own, not
    # those of a file that the user may have.
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **style, "backend": "svg"}):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        (FigureCanvasSVG if format == "svg" else FigureCanvasAgg)(figure)
        axes = figure.add_subplot()
        axes.set_facecolor("none")
        plot(axes)
        nothing = ("Creator", "Date", "Format", "Type") if format == "svg" else ("Software",)
        figure.savefig(
            target, format=format, metadata=dict.fromkeys(nothing), facecolor=background, dpi=200
        )


def save_calibration_chart(path: Place, calibration: Mapping[str, Any]) -> None:
    """Draws mean patch size against threshold, as what `calibrate` found says; PNG or SVG.

    The file stands alone, so it has the page's light colours.
    """
    colors = dict(re.findall(r"--([\w-]+): (#\w+)", STYLE.split("@media")[0]))
    stand_ins = {_INK: colors["ink-soft"], _GRID: colors["line"]}
    style = {name: stand_ins.get(value, value) for name, value in _STYLE.items()}
    curve, targets = calibration["curve"], calibration["targets"]

    def plot(axes: Axes) -> None:
        axes.plot(curve["threshold_nats"], curve["mean_patch_bytes"], color=colors["series-1"])
        for target in targets:
            point = (target["threshold_nats"], target["mean_patch_bytes"])
            low, high = target["interval_95_percent"]
            axes.errorbar(
                *point,
                yerr=[[max(0.0, point[1] - low)], [max(0.0, high - point[1])]],
                color=colors["series-2"],
                marker="o",
                markersize=4,
                capsize=3,
            )
            axes.annotate(
                f"{target['target_patch_bytes']:g} bytes at {target['threshold_nats']:.3f} nats",
                point,
                xytext=(-8, 4),
                textcoords="offset points",
                horizontalalignment="right",
            )
        rule = targets[0]["rule"]
        axes.set(xlabel=f"threshold of rule {rule} (nats)", ylabel="mean patch size (bytes)")
        axes.set_ylim(bottom=0)

    with atomic_path(path) as temporary:
        _save(temporary, path.suffix[1:], style, plot, background=colors["paper"])


def _styles(labels: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Returns colour, dash and marker by label: models in order, compressors always the same."""
    models = itertools.cycle(_MODEL_STYLES)
    return {label: _METHOD_STYLES.get(label) or next(models) for label in labels}


def draw_losses(
    name: str, title: str, history: Sequence[Mapping[str, float]], baseline: float | None = None
) -> str:
    """Draws bits per byte against the text trained on (thousands of bytes).

    Args:
      name: unique on the page.
      title: of the model.
      history: records with kilobytes, bits_per_byte and, in some, held_out_bits_per_byte.
      baseline: zlib's bits per byte, drawn as a level; None for none.
    """

    def plot(axes: Axes) -> None:
        seen = [record["kilobytes"] for record in history]
        axes.plot(seen, [r["bits_per_byte"] for r in history], color=_SERIES[0], label="training")
        judged = [record for record in history if "held_out_bits_per_byte" in record]
        if judged:
            axes.plot(
                [record["kilobytes"] for record in judged],
                [record["held_out_bits_per_byte"] for record in judged],
                color=_SERIES[1],
                linestyle="--",
                marker="o",
                markersize=4,
                label="held out",
            )
        if baseline is not None:
            color, dash, _ = _METHOD_STYLES["zlib"]
            axes.axhline(baseline, color=color, linestyle=dash, label="zlib, held out")
        axes.set(xlabel="text trained on (KB)", ylabel="bits per byte")
        axes.set_ylim(bottom=0, top=min(9.0, axes.get_ylim()[1]))
        axes.set_xlim(left=0)
        axes.legend()

    return _draw(name, f"{title}: bits per byte against the text trained on", plot)


def draw_patch_lengths(name: str, lengths: np.ndarray) -> str:
    """Draws the share of patches of each length; `lengths` as in `PatchMeasures`."""

    def plot(axes: Axes) -> None:
        used = np.flatnonzero(lengths)
        last = min(max(int(used[-1]), 8), MAX_PATCH_BIN) if len(used) else 8
        shares = 100 * lengths[1 : last + 1] / max(1, lengths.sum())
        axes.bar(np.arange(1, last + 1), shares, color=_SERIES[0], width=0.8)
        axes.set(xlabel="bytes in the patch", ylabel="share of patches (%)")
        axes.grid(visible=False, axis="x")
        axes.set_xlim(0.3, last + 0.7)
        ticks = [1, *range(4, last + 1, 4)]
        labels = [f"≥{t}" if t == MAX_PATCH_BIN else str(t) for t in ticks]
        axes.set_xticks(ticks, labels)

    return _draw(name, "Share of patches by their length in bytes", plot)


def bins_to_merge(num_documents: int) -> int:
    """Returns how many bins are drawn as one, so that few documents do not make a ragged line."""
    return 1 if num_documents >= 2000 else 2 if num_documents >= 500 else 4


def draw_distributions(name: str, histograms: Mapping[str, np.ndarray]) -> str:
    """Draws the documents by bits per byte, one outline for each model or compressor."""

    def plot(axes: Axes) -> None:
        total = sum(histograms.values())
        merged = bins_to_merge(int(total.sum()) // len(histograms))
        used = np.flatnonzero(total)
        first = int(used[0]) // merged * merged
        last = first + -(-(int(used[-1]) + 1 - first) // merged) * merged
        edges = np.arange(first, last + 1, merged) * BIN_BITS
        for label, (color, dash, _) in _styles(histograms).items():
            counts = histograms[label]
            counts = np.pad(counts, (0, merged))[first:last].reshape(-1, merged).sum(axis=1)
            values = 100 * counts / max(1, counts.sum())
            axes.stairs(values, edges, label=label, linewidth=1.5, color=color, linestyle=dash)
        axes.set(xlabel="bits per byte", ylabel="share of documents (%)")
        if used[-1] * BIN_BITS >= MAX_BITS:
            axes.set_xlabel(f"bits per byte (from {MAX_BITS:g} on in one bin)")
        axes.set_ylim(bottom=0)
        axes.legend()

    return _draw(name, "Distribution of bits per byte over documents", plot)


def draw_sizes(name: str, points: Mapping[str, np.ndarray]) -> str:
    """Draws each document's bits per byte against its size; `points` are [num_points, 2]."""

    def plot(axes: Axes) -> None:
        for label, (color, _, marker) in _styles(points).items():
            sizes, bits = points[label].T
            axes.scatter(
                sizes, bits, s=8, color=color, alpha=0.55, linewidths=0, marker=marker, label=label
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: _short_size(size)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="size of the document (bytes)", ylabel="bits per byte")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.legend(markerscale=2)

    return _draw(name, "Bits per byte of documents against their size", plot)


def _short_size(num_bytes: float) -> str:
    """Returns a label that leaves room for its neighbours: "500", "20k", "5M"."""
    for suffix, unit in (("M", 1e6), ("k", 1e3)):
        if num_bytes >= unit:
            return f"{num_bytes / unit:g}{suffix}"
    return f"{num_bytes:g}"
