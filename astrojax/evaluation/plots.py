"""Plots of a run, drawn without a display."""

from pathlib import Path
from typing import Any

import numpy as np


def plot_learning_curve(
    path: Path, records: list[dict[str, Any]], final: dict[str, Any], bits_per_nat_per_token: float
) -> None:
    """Draws training and validation loss in bits per byte over the steps, with the baselines as levels.

    Args:
        path: the PNG to write.
        records: lines of ``metrics.jsonl``.
        final: ``eval/metrics.json``.
        bits_per_nat_per_token: factor from nats per token to bits per byte of the training text.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    losses = [(r["step"], r["loss"] * bits_per_nat_per_token) for r in records if r.get("loss") is not None]
    if losses:
        steps, values = np.transpose(losses)
        axes.plot(steps, values, color="#b8cbe0", linewidth=0.8)
        width = max(len(values) // 40, 1)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], smooth, color="#1f5a94", linewidth=1.6, label="training (running mean)")
    validation = [(r["step"], r["validation_bits_per_byte"]) for r in records if "validation_bits_per_byte" in r]
    if validation:
        axes.plot(*np.transpose(validation), "o-", color="#d1661f", markersize=3.5, label="validation")
    axes.plot(
        [final["step"]],
        [final["bits_per_byte"]],
        "*",
        color="#8c1d40",
        markersize=13,
        label=f"{final['text']}: {final['bits_per_byte']:.3f}",
    )
    for name, label in (
        ("unigram_bits_per_byte", "unigram"),
        ("xz_bits_per_byte", "xz -9e"),
        ("xz_primed_bits_per_byte", "xz -9e, primed"),
    ):
        axes.axhline(final[name], color="0.45", linewidth=0.9, linestyle="--")
        axes.annotate(
            f"{label} {final[name]:.2f}",
            (1.0, final[name]),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="0.35",
        )
    low = min([final["bits_per_byte"], final["xz_primed_bits_per_byte"]] + [v for _, v in validation])
    axes.set_ylim(low - 0.15, final["unigram_bits_per_byte"] + 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel("step")
    axes.set_ylabel("bits per byte")
    axes.legend(loc="upper center", frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
