"""Pictures of predicted climates beside simulated ones, and the page that shows them, without a display."""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from astrojax.evaluation.climate_metrics import Climates, month_mean
from astrojax.files import write_atomically

_SEQUENTIAL, _DIVERGING = "viridis", "RdBu_r"
_WINDS = frozenset({"ua", "va"})
_TITLES = ("truth", "prediction", "prediction - truth")
_MARKERS = "sD^vPXd*"


def maps(
    path: Path,
    truth: Climates,
    predicted: Mapping[str, np.ndarray],
    variable: str,
    sample: int,
    units: Mapping[str, str],
    level: int = 0,
) -> None:
    """Maps of the truth, the prediction and the error: the mean over the months of one climate at one level.

    Args:
        path: the PNG to write.
        truth: simulated climates.
        predicted: ``[n, ct, lev, lat, lon]`` of each variable.
        variable: which to draw.
        sample: position of the climate.
        units: unit of each variable.
        level: position of the level from the top; 0 for a field at the surface.
    """
    true, forecast = (x[level] for x in _annual_means(truth, predicted, variable, sample))
    figure = _figure(5.6, 7.6)
    panels = figure.subplots(3, 1, sharex=True)
    edges = truth.grid.lon_edges, truth.grid.lat_edges
    for axes, title, values, colours in _triple(panels, variable, true, forecast):
        image = axes.pcolormesh(*edges, values, **colours)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_aspect("equal")
        axes.set_yticks(np.arange(-90, 91, 30))
        axes.set_ylabel("latitude (°N)")
        figure.colorbar(image, ax=axes, label=_label(variable, units), fraction=0.025, pad=0.02)
    first = 60 * np.ceil(truth.grid.lon_edges[0] / 60)
    panels[-1].set_xticks(np.arange(first, truth.grid.lon_edges[-1] + 1e-9, 60))
    panels[-1].set_xlabel("longitude (°E)")
    at = f", level {truth.lev[level]:.3g}" if truth.fields[variable].shape[2] > 1 else ""
    figure.suptitle(_title(truth, variable, sample) + at, fontsize=11)
    figure.savefig(path, dpi=130)


def zonal_sections(
    path: Path,
    truth: Climates,
    predicted: Mapping[str, np.ndarray],
    variable: str,
    sample: int,
    units: Mapping[str, str],
    level_label: str = "sigma",
) -> None:
    """Sections through latitude and level of the mean over months and longitudes of one climate; see ``maps``.

    ``level_label`` names the vertical coordinate with its unit.
    """
    true, forecast = (_zonal_mean(x) for x in _annual_means(truth, predicted, variable, sample))
    figure = _figure(12.5, 3.9)
    figure.get_layout_engine().set(wspace=0.06)
    panels = figure.subplots(1, 3, sharey=True)
    for axes, title, values, colours in _triple(panels, variable, true, forecast):
        image = axes.pcolormesh(truth.grid.lat, truth.lev, values, shading="nearest", **colours)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xticks(np.arange(-90, 91, 30))
        axes.set_xlim(-90, 90)
        axes.set_xlabel("latitude (°N)")
        figure.colorbar(image, ax=axes, label=_label(variable, units), pad=0.02)
    panels[0].invert_yaxis()
    panels[0].set_ylabel(level_label)
    figure.suptitle(_title(truth, variable, sample) + ", zonal mean", fontsize=11)
    figure.savefig(path, dpi=130)


def global_means(
    path: Path,
    truth: Climates,
    predicted: Mapping[str, np.ndarray],
    variables: Sequence[str],
    units: Mapping[str, str],
) -> None:
    """Predicted over true global annual means, a panel per variable and a colour per planet; levels count alike."""
    columns = min(4, len(variables))
    rows = -(-len(variables) // columns)
    figure = _figure(3.0 * columns + 0.4, 3.0 * rows + 0.7)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    names = list(dict.fromkeys(truth.planets))
    colours = colormaps["tab10"].colors if len(names) <= 10 else colormaps["turbo"](np.linspace(0, 1, len(names)))
    for axes, variable in zip(panels, variables, strict=False):
        true, forecast = (_global_mean(x, truth) for x in _annual_means(truth, predicted, variable))
        for name, colour in zip(names, colours, strict=False):
            of_planet = np.asarray(truth.planets) == name
            axes.plot(true[of_planet], forecast[of_planet], "o", color=colour, markersize=5, alpha=0.85, label=name)
        both = np.concatenate([true, forecast])
        low, high = np.nanmin(both), np.nanmax(both)
        margin = 0.06 * (high - low) or 1.0
        axes.plot([low - margin, high + margin], [low - margin, high + margin], color="0.5", linewidth=0.9, zorder=0)
        axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), box_aspect=1)
        axes.locator_params(nbins=4)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:.3g}")
        axes.set_title(_label(variable, units), fontsize=10, loc="left")
        axes.tick_params(labelsize=8)
    for axes in panels[len(variables) :]:
        axes.set_axis_off()
    figure.supxlabel("simulated", fontsize=10)
    figure.supylabel("predicted", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(columns, 6), fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def learning_curve(
    path: Path,
    num_planets: Sequence[int],
    curves: Mapping[str, Sequence[float]],
    label: str,
    bottom: float | None = None,
) -> None:
    """A score over the number of training planets, a line per predictor.

    Args:
        path: the PNG to write.
        num_planets: numbers of training planets.
        curves: predictor -> its score at each number, NaN where it has none. The first is drawn as the one in question.
        label: the score, with its unit.
        bottom: where the axis begins: a predictor that fails below it would hide how the others differ.
    """
    figure = _figure(6.4, 4.2)
    axes = figure.add_subplot()
    for (name, values), style in zip(curves.items(), _styles(len(curves)), strict=True):
        axes.plot(num_planets, values, "-", label=_plain(name), **style)
    axes.set_xlabel("training planets")
    axes.set_ylabel(label)
    axes.set_xticks(num_planets)
    axes.set_ylim(bottom=bottom)
    axes.grid(alpha=0.25)
    _outside_legend(figure, axes)
    figure.savefig(path, dpi=130)


def scores(path: Path, rmse: Mapping[str, Mapping[str, float]], reference: str = "mean") -> None:
    """RMSE relative to that of ``reference``, a row per variable and a mark per predictor; below 1 is better.

    Args:
        path: the PNG to write.
        rmse: predictor -> variable -> RMSE, with ``reference`` among the predictors. The first is drawn as the one in
            question.
        reference: the predictor that counts as 1.
    """
    variables = list(rmse[reference])
    figure = _figure(7.0, 0.36 * len(variables) + 1.5)
    axes = figure.add_subplot()
    rows = np.arange(len(variables))
    shown = {name: style for name, style in zip(rmse, _styles(len(rmse)), strict=True) if name != reference}
    for (name, style), offset in zip(shown.items(), np.linspace(-0.22, 0.22, len(shown)), strict=True):
        relative = [rmse[name].get(v, np.nan) / rmse[reference][v] for v in variables]
        axes.plot(relative, rows + offset, label=_plain(name), **style | {"linestyle": "none"})
    axes.axvline(1, color="0.4", linewidth=0.9, linestyle="--")
    axes.set_yticks(rows, variables)
    axes.set_ylim(len(variables) - 0.5, -0.5)
    axes.set_xlim(left=0)
    for row in rows[:-1]:
        axes.axhline(row + 0.5, color="0.9", linewidth=0.8, zorder=0)
    axes.set_xlabel(f"RMSE / RMSE of {_plain(reference)}")
    _outside_legend(figure, axes)
    figure.savefig(path, dpi=130)


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        heading: its heading.
        text: a paragraph, or nothing.
        table: rows of cells as text, the first of them column headings; the first column names the row.
        figures: file name in the page's folder and caption of each picture.
    """

    heading: str
    text: str = ""
    table: Sequence[Sequence[str]] = ()
    figures: Sequence[tuple[str, str]] = ()


def write_page(folder: Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes ``index.html`` into ``folder``, which shows the pictures there and needs nothing else.

    Raises:
        ValueError: a picture is not in the folder.
    """
    missing = [name for section in sections for name, _ in section.figures if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: no {', '.join(missing)}")
    body = "\n".join(_section(section, number) for number, section in enumerate(sections, 1))
    links = "".join(
        f'<li><a href="#s{number}">{html.escape(section.heading)}</a></li>'
        for number, section in enumerate(sections, 1)
    )
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
body {{ font: 16px/1.5 sans-serif; color: #222; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }}
figure {{ margin: 1rem 0; }}
img {{ max-width: 100%; height: auto; }}
figcaption {{ color: #555; font-size: 0.9rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.25rem 0.8rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }}
th[scope="row"], thead th:first-child {{ text-align: left; }}
</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<nav><ul>{links}</ul></nav>
{body}
</body>
</html>
"""
    write_atomically(folder / "index.html", page.encode())
    return folder / "index.html"


def _section(section: Section, number: int) -> str:
    parts = [f'<section id="s{number}">', f"<h2>{html.escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.table:
        head, *rows = section.table
        parts.append('<div class="wide"><table><thead><tr>')
        parts += [f'<th scope="col">{html.escape(cell)}</th>' for cell in head]
        parts.append("</tr></thead><tbody>")
        for name, *cells in rows:
            row = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            parts.append(f'<tr><th scope="row">{html.escape(name)}</th>{row}</tr>')
        parts.append("</tbody></table></div>")
    for name, caption in section.figures:
        image = f'<img src="{quote(name)}" alt="{html.escape(caption)}" loading="lazy">'
        parts.append(f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>")
    return "\n".join([*parts, "</section>"])


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _triple(panels: Sequence[Axes], variable: str, true: np.ndarray, forecast: np.ndarray):
    """Axes, title, values and colours of truth and prediction, which share a scale, and of the error."""
    both = np.stack([true, forecast])
    if variable in _WINDS:
        same = _symmetric(both)
    else:
        same = {"cmap": _SEQUENTIAL, "vmin": np.nanmin(both), "vmax": np.nanmax(both)}
    error = forecast - true
    return zip(panels, _TITLES, (true, forecast, error), (same, same, _symmetric(error)), strict=True)


def _symmetric(values: np.ndarray) -> dict:
    bound = np.nanmax(np.abs(values)) or 1.0
    return {"cmap": _DIVERGING, "vmin": -bound, "vmax": bound}


def _annual_means(truth: Climates, predicted, variable: str, sample: int | slice = slice(None)):
    """``[lev, lat, lon]`` of the truth and the prediction, of one climate or ``[n, ...]`` of all."""
    present = np.isfinite(truth.fields[variable])
    return tuple(month_mean(x, present)[sample, ..., 0, :, :, :] for x in (truth.fields[variable], predicted[variable]))


def _zonal_mean(field: np.ndarray) -> np.ndarray:
    present = np.isfinite(field)
    count = present.sum(axis=-1)
    return np.where(count > 0, np.where(present, field, 0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def _global_mean(field: np.ndarray, truth: Climates) -> np.ndarray:
    """``[n]`` of ``[n, lev, lat, lon]``, over the cells that have a value."""
    weights = np.where(np.isfinite(field), truth.grid.areas, 0)
    total = weights.sum(axis=(1, 2, 3))
    mean = np.where(weights > 0, field * weights, 0).sum(axis=(1, 2, 3)) / np.where(total > 0, total, 1)
    return np.where(total > 0, mean, np.nan)


def _styles(number: int) -> list[dict]:
    """The first stands out; the others differ in colour and mark."""
    others = colormaps["viridis"](np.linspace(0.1, 0.85, max(number - 1, 1)))
    first = {"color": "#c1272d", "marker": "o", "markersize": 7, "linewidth": 2.2, "zorder": 3}
    return [first] + [
        {"color": colour, "marker": _MARKERS[i % len(_MARKERS)], "markersize": 5, "linewidth": 1.3}
        for i, colour in enumerate(others[: number - 1])
    ]


def _outside_legend(figure: Figure, axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=9, frameon=False)


def _label(variable: str, units: Mapping[str, str]) -> str:
    return f"{variable} ({units[variable]})"


def _title(truth: Climates, variable: str, sample: int) -> str:
    return f"{variable}, {truth.planets[sample]}, epoch {truth.epochs[sample]}, annual mean"


def _plain(name: str) -> str:
    return name.replace("_", " ")
