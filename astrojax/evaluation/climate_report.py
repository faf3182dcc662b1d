"""What a person looks at after an evaluation: maps, sections, scatter plots and one page that shows them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from astrojax.evaluation import climate_plots as plots
from astrojax.evaluation.climate_metrics import Climates

_NETWORK = "network"


def write_report(
    folder: Path,
    result: Mapping[str, Any],
    truth: Climates,
    predicted: Mapping[str, np.ndarray],
    units: Mapping[str, str],
) -> None:
    """Writes the figures and ``index.html`` into ``folder``.

    Each planet's last epoch is drawn: fields on levels at the lowest level and as a zonal section.

    Args:
        folder: where to.
        result: ``eval/metrics.json``.
        truth: simulated climates, without what the model was shown.
        predicted: ``[n, ct, lev, lat, lon]`` of each variable.
        units: unit of each variable.
    """
    rmse = {_NETWORK: result["rmse"]} | {name: b["rmse"] for name, b in result["baselines"].items()}
    plots.scores(folder / "scores.png", rmse)
    plots.global_means(folder / "global_means.png", truth, predicted, tuple(predicted), units)
    sections = [
        plots.Section(
            "Errors",
            "Root mean square errors over all months, levels and cells, weighted by area"
            + (
                f"; learnt from were {', '.join(learnt)}"
                if (learnt := result["learnt_planets"])
                else ", on new planets"
            )
            + ". Weather noise is the variability between months of training planets without seasons: single months of "
            "planets like those cannot be predicted better by their climate.",
            table=_table(result, rmse, units),
            figures=[("scores.png", "Errors relative to the mean of the training planets")],
        ),
        plots.Section("Global means", figures=[("global_means.png", "Annual global means, one point per epoch")]),
    ]
    for planet in dict.fromkeys(truth.planets):
        sample = max(i for i, name in enumerate(truth.planets) if name == planet)
        figures = []
        for variable in predicted:
            if not np.isfinite(truth.fields[variable][sample]).any():
                continue
            num_levels = truth.fields[variable].shape[2]
            name = f"{_file_name(planet)}_{variable}.png"
            plots.maps(folder / name, truth, predicted, variable, sample, units, level=num_levels - 1)
            figures.append((name, f"{variable}: simulated, predicted, error"))
            if num_levels > 1:
                name = f"{_file_name(planet)}_{variable}_section.png"
                plots.zonal_sections(folder / name, truth, predicted, variable, sample, units)
                figures.append((name, f"{variable}: zonal means"))
        sections.append(plots.Section(f"{planet}, epoch {truth.epochs[sample]}", figures=figures))
    plots.write_page(folder, "Predicted climates", sections)


def _table(result: Mapping[str, Any], rmse: Mapping[str, Mapping[str, float]], units: Mapping[str, str]):
    noise = result["weather_noise"]
    rows = [["variable", "unit", *rmse, "weather noise", "R²", "R² of annual means"]]
    for variable in result["rmse"]:
        numbers = [errors.get(variable) for errors in rmse.values()]
        numbers += [noise.get(variable), result["r2"][variable], result["time_mean_r2"][variable]]
        rows.append([variable, units[variable], *("" if n is None else f"{n:.3g}" for n in numbers)])
    return rows


def _file_name(planet: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in planet)
