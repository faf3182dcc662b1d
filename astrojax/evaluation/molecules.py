"""How good a molecule model is: what it generates, with and without the valence mask, and what it reconstructs."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from astrojax.console import say
from astrojax.evaluation import calibration
from astrojax.evaluation import graph_plots as plots
from astrojax.evaluation import molecule_metrics as metrics
from astrojax.evaluation.latents import active_dimensions
from astrojax.files import write_atomically

# What is looked at closer than by its SMILES: properties take milliseconds for each.
_DESCRIBED = 2000
_MAPPED = 2000
_SHOWN = 30
_LINES, _STOPS = 6, 7


def evaluate(task, params, mesh: jax.sharding.Mesh, workdir: Path, step: int) -> dict[str, Any]:
    """Writes ``eval/metrics.json`` and plots: a latent map, generated molecules, interpolations, properties, a
    reliability diagram of bonds.

    Molecules are generated from latents of the prior at ``temperature``, ``num_samples`` with the valence mask and as
    many without, from the same latents and random numbers. Held-out molecules are reconstructed from their mean latents
    by the likeliest tokens; a reconstruction is exact where the canonical SMILES is the same. How sure the decoder is
    of each of their bonds is set beside how often that bond is right.
    """
    config, folder = task.config, workdir / "eval"
    say(f"generating {config.num_samples:,} molecules with the valence mask, and as many without")
    drawn = {
        masked: task.generate(params, mesh, config.num_samples, temperature=config.temperature, masked=masked)
        for masked in (True, False)
    }
    store = task.stores["heldout"]
    places = np.flatnonzero(store.fits(config.budget))
    say(f"reconstructing {len(places):,} held-out molecules")
    truth = [task.smiles["heldout"][place] for place in places]
    means = task.latents(params, mesh, "heldout", places)
    rebuilt = {masked: task.write(params, mesh, means, masked=masked) for masked in (True, False)}
    probability, right = task.bonds(params, mesh, "heldout", places)
    ends = means[: 2 * _LINES].reshape(_LINES, 2, -1) if len(means) >= 2 * _LINES else means[:2][None]
    shares = np.linspace(0, 1, _STOPS)[:, None]
    lines = [first + (last - first) * shares for first, last in ends]
    between = task.write(params, mesh, np.concatenate(lines))
    if jax.process_index():
        return {}
    training = set(task.smiles["train"])
    random = np.random.default_rng(0)
    sample = random.choice(task.smiles["train"], min(_DESCRIBED, len(training)), replace=False).tolist()
    masked, unmasked = (metrics.quality(drawn[which], training) for which in (True, False))
    again = random.choice(task.smiles["train"], config.num_samples).tolist()
    say("computing properties")
    described = metrics.properties(drawn[True][:_DESCRIBED])
    known = metrics.properties(sample)
    result: dict[str, Any] = {
        "step": step,
        "num_samples": config.num_samples,
        "temperature": config.temperature,
        "validity_masked": masked["validity"],
        "validity_unmasked": unmasked["validity"],
        "uniqueness": masked["uniqueness"],
        "uniqueness_unmasked": unmasked["uniqueness"],
        # What as many draws from the training set, with replacement, would have.
        "uniqueness_of_training_set": metrics.quality(again, training)["uniqueness"],
        "novelty": masked["novelty"],
        "novelty_unmasked": unmasked["novelty"],
        "reconstruction_exact": _same(rebuilt[True], truth),
        "reconstruction_exact_unmasked": _same(rebuilt[False], truth),
        "reconstructed": len(truth),
        "bonds_right": float(np.mean(right)) if len(right) else math.nan,
        "expected_calibration_error": calibration.expected_calibration_error(right, probability),
        "active_dimensions": active_dimensions(means),
        "property_distance": metrics.property_distances(described, known),
        "internal_diversity": metrics.internal_diversity(drawn[True][:_DESCRIBED]),
        "internal_diversity_of_training_set": metrics.internal_diversity(sample),
        "published": {name: paper._asdict() for name, paper in metrics.PUBLISHED.items()},
    }
    write_atomically(folder / "metrics.json", json.dumps(result, indent=2).encode() + b"\n")
    bins = calibration.reliability(right, probability)
    plots.reliability_diagram(folder / "reliability.png", {"bonds": bins})
    logp = metrics.properties(truth[:_MAPPED])["logp"]
    plots.latent_map(folder / "latent_map.png", means[:_MAPPED], logp, "log P", "Held-out molecules")
    shown = list(dict.fromkeys(filter(None, drawn[True])))[:_SHOWN]
    legends = ["in training set" if smiles in training else "new" for smiles in shown]
    plots.molecule_grid(folder / "generated.png", shown, legends)
    plots.interpolation(folder / "interpolation.png", np.reshape(between, (-1, _STOPS)).tolist())
    plots.property_distributions(folder / "properties.png", described, known)
    return {
        key: value for key, value in result.items() if key not in ("property_distance", "published", "reconstructed")
    }


def _same(written: list[str | None], truth: list[str]) -> float:
    return float(np.mean([one == other for one, other in zip(written, truth, strict=True)]))
