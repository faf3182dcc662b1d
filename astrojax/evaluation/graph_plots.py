"""Pictures of what a graph VAE learns and proposes: latent space, molecules and pathways, drawn without a display."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path as MatplotlibPath
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, precision_recall_curve

from astrojax.chemistry.valence import rdkit_chem
from astrojax.console import say
from astrojax.data.networks.candidates import participation
from astrojax.data.networks.universe import Term, Universe
from astrojax.evaluation.calibration import Reliability
from astrojax.evaluation.graph_layout import layered, spaced
from astrojax.files import write_atomically

_GENERATED, _TRAINING = "#c1272d", "#8a9bb0"
_GRID = (5, 6)
_CELL = (220, 190)  # Pixels of a molecule, width and height.

_PROBABILITIES = colormaps["YlOrRd"]
# A compound of more than this share of all reactions, and of so many, says nothing of a pathway.
_UBIQUITOUS_SHARE, _UBIQUITOUS_LEAST = 0.007, 10
_FONT, _SMALL, _LINE = 8.0, 6.0, 24  # Points, and letters to a line.
_LAYER = 0.62  # Inches from layer to layer.
_PROPERTY_LABELS = {
    "molecular_weight": "molecular weight (g/mol)",
    "logp": "log P",
    "qed": "QED",
    "tpsa": "TPSA (Å²)",
}


def latent_map(path: Path, means: np.ndarray, colours: Sequence[float] | Sequence[str], label: str, title: str) -> None:
    """The first two principal components of posterior means, with the share of the variance that each explains.

    Args:
        path: the PNG to write.
        means: ``[n, d]``, two or more of each.
        colours: ``[n]``, numbers, or names: written beside the points if they all differ, in a legend otherwise.
        label: what the colours are, with unit.
        title: above the map.
    """
    pca = PCA(2)
    x, y = pca.fit_transform(means).T
    figure = _figure(6.6, 5.2)
    axes = figure.add_subplot()
    axes.set_xlabel(f"first component ({pca.explained_variance_ratio_[0]:.0%} of variance)")
    axes.set_ylabel(f"second component ({pca.explained_variance_ratio_[1]:.0%})")
    axes.set_title(title, fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    size = float(np.clip(4000 / len(x), 3, 30))
    values, names = np.asarray(colours), list(dict.fromkeys(colours))
    if values.dtype.kind in "biuf":
        order = np.random.default_rng(0).permutation(len(x))  # Or the last would hide the first.
        points = axes.scatter(x[order], y[order], c=values[order], s=size, cmap="viridis", linewidths=0)
        figure.colorbar(points, ax=axes, label=label)
    elif len(names) == len(x):
        axes.scatter(x, y, s=size, color=_GENERATED, linewidths=0)
        _write_beside(axes, x, y, names)
    else:
        many = colormaps["turbo"](np.linspace(0, 1, len(names)))
        for name, colour in zip(names, colormaps["tab10"].colors if len(names) <= 10 else many, strict=False):
            axes.scatter(x[values == name], y[values == name], s=size, color=colour, linewidths=0, label=name)
        figure.legend(title=label, loc="outside right upper", fontsize=8, frameon=False, markerscale=2)
    figure.savefig(path, dpi=130)


def reliability_diagram(path: Path, curves: Mapping[str, Reliability]) -> None:
    """True frequency over predicted probability, a line per model; on the diagonal a model is calibrated.

    The first is drawn as the one in question. Bars are two standard errors of a share of so many pairs.
    """
    figure = _figure(6.6, 4.2)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=0.9, linestyle="--")
    for (name, bins), style in zip(curves.items(), _styles(len(curves)), strict=True):
        error = 2 * np.sqrt(bins.frequency * (1 - bins.frequency) / bins.count)
        style |= {"marker": "o", "markersize": 4, "elinewidth": 1.0}
        axes.errorbar(bins.probability, bins.frequency, error, label=_plain(name), **style)
    _square(figure, axes, "predicted probability", "share that is true", None)
    figure.savefig(path, dpi=130)


def precision_recall(path: Path, label: np.ndarray, scores: Mapping[str, np.ndarray]) -> None:
    """Precision over recall, a line per model with its average precision; the dashed line is chance.

    Args:
        path: the PNG to write.
        label: ``[p]`` bool.
        scores: model -> ``[p]``. The first is drawn as the one in question.
    """
    figure = _figure(6.6, 4.2)
    axes = figure.add_subplot()
    for (name, score), style in zip(scores.items(), _styles(len(scores)), strict=True):
        precision, recall, _ = precision_recall_curve(label, score)
        style |= {"drawstyle": "steps-post", "label": f"{_plain(name)} {average_precision_score(label, score):.2f}"}
        axes.plot(recall, precision, **style)
    chance = np.mean(label)
    axes.axhline(chance, color="0.5", linewidth=0.9, linestyle="--", label=f"chance {chance:.2f}")
    _square(figure, axes, "recall", "precision", "average precision")
    figure.savefig(path, dpi=130)


def molecule_grid(path: Path, smiles: Sequence[str], legends: Sequence[str]) -> None:
    """Molecules, six to a row, each with its legend below: the first thirty."""
    rows, columns = _GRID
    shown = slice(rows * columns)
    _draw_molecules(path, smiles[shown], legends[shown], columns)


def interpolation(path: Path, rows: Sequence[Sequence[str | None]]) -> None:
    """Molecules on lines through the latent space, a row for each from its first molecule to its last; None is left
    empty."""
    columns = max(map(len, rows))
    cells = [smiles for row in rows for smiles in [*row, *[None] * (columns - len(row))]]
    _draw_molecules(path, cells, [""] * len(cells), columns)


def property_distributions(path: Path, generated: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray]) -> None:
    """Distributions of the properties of generated molecules over those of training molecules, a panel each.

    Both as :func:`astrojax.evaluation.molecule_metrics.properties` has them.
    """
    columns = min(5, len(training))
    rows = -(-len(training) // columns)
    figure = _figure(2.5 * columns, 2.2 * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, known) in zip(panels, training.items(), strict=False):
        edges = _edges(np.concatenate([known, generated[name]]))
        for values, label, style in (
            (known, "training", {"color": _TRAINING, "alpha": 0.6}),
            (generated[name], "generated", {"color": _GENERATED, "histtype": "step", "linewidth": 1.6}),
        ):
            axes.hist(values, edges, weights=np.full(len(values), 1 / max(len(values), 1)), label=label, **style)
        axes.set_title(_PROPERTY_LABELS.get(name, _plain(name)), fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes in panels[len(training) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=9, frameon=False)
    figure.savefig(path, dpi=130)


def pathway(path: Path, universe: Universe, reactions: Sequence[tuple[int, float | None]]) -> None:
    """A dozen reactions or fewer as a graph: compounds as text, reactions as boxes, what is used above what is made.

    A reversible reaction has heads at both ends of its arrows, and either side above. Compounds of a great many
    reactions (water, ATP) are small print beside the boxes; of a side that has no others the rarest is drawn. A
    compound that is not in compartment ``c`` has its compartment in brackets.

    Args:
        path: the PNG to write.
        universe: where they are from.
        reactions: position of each, and its probability, which colours it; None for a reaction of the draft, in grey.
    """
    boxes, notes, labels, arrows = _graph(universe, reactions)
    texts = boxes + labels
    beside = np.asarray([_width(note, _SMALL) for note in notes] + [0.0] * len(labels))
    widths = np.asarray([_width(text, _FONT) for text in texts]) + 2 * beside + 0.3  # A box stays in the middle.
    reversible = np.asarray([universe.reactions[r].reversible for r, _ in reactions])
    x, layer, routes = layered(np.asarray(arrows), widths, reversible)
    y = -_LAYER * layer
    left, right = np.min(x[: len(texts)] - widths / 2), np.max(x[: len(texts)] + widths / 2)
    bar = 0.8 if any(probability is not None for _, probability in reactions) else 0.0
    width, height = right - left + bar, 0.6 - y.min()
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1 - bar / width, 1), xlim=(left, right), ylim=(y.min() - 0.3, 0.3))
    axes.set_axis_off()
    style = {"zorder": 3, "linespacing": 1.1, "va": "center"}
    for i, (text, note) in enumerate(zip(boxes, notes, strict=True)):
        probability = reactions[i][1]
        colour = "0.9" if probability is None else _PROBABILITIES(probability)
        box = {"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "0.35", "linewidth": 0.8}
        dark = probability is not None and probability > 0.7
        axes.text(x[i], y[i], text, ha="center", fontsize=_FONT, bbox=box, color="w" if dark else "k", **style)
        axes.text(x[i] + _width(text, _FONT) / 2 + 0.1, y[i], note, fontsize=_SMALL, color="0.45", **style)
    for i, text in enumerate(labels, len(boxes)):
        axes.text(x[i], y[i], text, ha="center", fontsize=_FONT, **style)
    half = [0.065 * (1 + text.count("\n")) + 0.03 for text in texts]
    for (tail, head), route in zip(arrows, routes, strict=True):
        ends = "-|>" if tail < len(boxes) else ("<|-" if reversible[head] else "-")
        _arrow(axes, x[route], y[route], half[tail], half[head], ends)
    if bar:
        size = min(0.8 * height, 1.6)
        of_bar = figure.add_axes((1 - 0.7 / width, 0.5 - size / height / 2, 0.1 / width, size / height))
        figure.colorbar(ScalarMappable(Normalize(0, 1), _PROBABILITIES), cax=of_bar)
        of_bar.set_ylabel("probability", fontsize=_FONT)
        of_bar.tick_params(labelsize=_SMALL)
    figure.savefig(path, dpi=130)


def _graph(universe: Universe, reactions: Sequence[tuple[int, float | None]]):
    """Of each reaction the text in its box and the note beside it, the text of each compound, and arrows between
    positions in the list of reactions and then compounds."""
    degree = participation(universe).sum(axis=1)
    limit = ubiquitous(universe)
    boxes, notes, arrows, places = [], [], [], {}
    for i, (r, probability) in enumerate(reactions):
        terms = universe.reactions[r].terms
        used, made = (_main([t for t in terms if (t.coefficient > 0) == side], degree, limit) for side in (0, 1))
        for place in used + made:
            places.setdefault(place, len(reactions) + len(places))
        arrows += [(places[place], i) for place in used] + [(i, places[place]) for place in made]
        text = _wrapped(universe.reactions[r].id.removeprefix("R_"))
        boxes.append(text if probability is None else f"{text}\n{probability:.2f}")
        notes.append(_note(universe, [t for t in terms if (t.compound, t.compartment) not in used + made]))
    labels = [_wrapped(universe.compounds[c].name, "" if where == "c" else where) for c, where in places]
    return boxes, notes, labels, arrows


def ubiquitous(universe: Universe) -> float:
    """Compounds of more reactions than this are in so many that they connect none."""
    return max(_UBIQUITOUS_SHARE * len(universe.reactions), _UBIQUITOUS_LEAST)


def _compounds(terms: Sequence[Term]) -> list[int]:
    return list(dict.fromkeys(term.compound for term in terms))


def _main(terms: Sequence[Term], degree: np.ndarray, limit: float) -> list[tuple[int, str]]:
    """What one side of a reaction is about: compounds and their compartments."""
    rare = [t for t in terms if degree[t.compound] <= limit] or sorted(terms, key=lambda t: degree[t.compound])[:1]
    return list(dict.fromkeys((t.compound, t.compartment) for t in rare))


def _note(universe: Universe, terms: Sequence[Term]) -> str:
    """What is used, and what is made, by the short names of BiGG where there are any."""
    lines = []
    for side, sign in enumerate(("+ ", "→ ")):
        compounds = [universe.compounds[c] for c in _compounds([t for t in terms if (t.coefficient > 0) == side])]
        # In reverse: capitals come before small letters, and are of other databases.
        names = [min(sorted(c.accessions.get("bigg.metabolite", [c.name]), reverse=True), key=len) for c in compounds]
        lines += [sign + ", ".join(names)] if names else []
    return "\n".join(lines)


def _wrapped(name: str, where: str = "") -> str:
    """A name in three lines at most, and a compartment after it."""
    return "\n".join(textwrap.wrap(name, _LINE, max_lines=3, placeholder="…")) + (f" [{where}]" if where else "")


def _width(text: str, font: float) -> float:
    """Inches, roughly."""
    return 0.0088 * font * max(map(len, text.split("\n")))


def _arrow(axes: Axes, x: np.ndarray, y: np.ndarray, behind: float, ahead: float, style: str) -> None:
    """Through points, upright in each, from the edge of the first node to that of the last."""
    down = np.sign(y[0] - y[-1])
    y = y - down * np.pad([behind, -ahead], (0, len(y) - 2))[[0, *range(2, len(y)), 1]]
    points = [(x[0], y[0])]
    for i in range(1, len(x)):
        middle = (y[i - 1] + y[i]) / 2
        points += [(x[i - 1], middle), (x[i], middle), (x[i], y[i])]
    curve = MatplotlibPath(points, [MatplotlibPath.MOVETO, *[MatplotlibPath.CURVE4] * (len(points) - 1)])
    colour = {"edgecolor": "0.35", "facecolor": "0.35"}
    axes.add_patch(FancyArrowPatch(path=curve, arrowstyle=style, mutation_scale=8, linewidth=0.9, zorder=1, **colour))


def _write_beside(axes: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """Names to the right of points, moved up and down until none covers another."""
    axes.margins(x=0.15)
    axes.figure.draw_without_rendering()  # Only then is it known where points will be.
    height = axes.transData.transform(np.stack([x, y], axis=1))[:, 1] * 72 / axes.figure.dpi
    order = np.argsort(height, kind="stable")
    apart = _FONT * np.arange(len(order))
    moved = spaced(height[order], apart) - height[order]
    line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
    style = {"textcoords": "offset points", "fontsize": _FONT - 1, "va": "center", "arrowprops": line}
    for i, up in zip(order, moved, strict=True):
        axes.annotate(names[i], (x[i], y[i]), (8, up), **style)


def _draw_molecules(path: Path, smiles: Sequence[str | None], legends: Sequence[str], columns: int) -> None:
    Chem = rdkit_chem()
    try:
        from rdkit.Chem.Draw import rdMolDraw2D
    except ImportError as error:
        # A server may lack what RDKit's wheel leaves to the system; a picture is no reason to lose an evaluation.
        say(f"not drawn: {path.name}: {error} (Debian and Ubuntu: apt install libxrender1 libxext6)")
        return
    molecules = [Chem.MolFromSmiles(text or "") for text in smiles]
    width, height = _CELL
    rows = -(-len(molecules) // columns)
    canvas = rdMolDraw2D.MolDraw2DCairo(width * min(columns, len(molecules)), height * rows, width, height)
    canvas.drawOptions().legendFontSize = 18
    canvas.DrawMolecules(molecules, legends=list(legends))
    canvas.FinishDrawing()
    write_atomically(path, canvas.GetDrawingText())


def _edges(values: np.ndarray) -> np.ndarray:
    """Of bins: one for each number where all are whole."""
    low, high = values.min(), values.max()
    if np.array_equal(values, np.round(values)):
        return np.arange(low, high + 2) - 0.5
    return np.linspace(low, high, 40)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _square(figure: Figure, axes: Axes, x_label: str, y_label: str, legend: str | None) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=x_label, ylabel=y_label)
    axes.spines[["top", "right"]].set_visible(False)
    style = {"title": legend, "title_fontsize": 8, "alignment": "left", "fontsize": 8, "frameon": False}
    figure.legend(loc="outside right upper", **style)


def _styles(number: int) -> list[dict]:
    """The first stands out."""
    others = colormaps["viridis"](np.linspace(0.1, 0.85, max(number - 1, 1)))
    return [{"color": _GENERATED, "linewidth": 2.2, "zorder": 3}] + [
        {"color": colour, "linewidth": 1.3} for colour in others[: number - 1]
    ]


def _plain(name: str) -> str:
    return name.replace("_", " ")
