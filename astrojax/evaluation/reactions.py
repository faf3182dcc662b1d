"""How well a model finds the reactions that draft networks are missing, beside baselines fitted on the same split."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from astrojax.console import say
from astrojax.data.networks.candidates import Pairs, participation, same_compounds, training_candidates
from astrojax.data.networks.relatives import held_by_another, held_by_relatives, likeness_to_others
from astrojax.evaluation import calibration
from astrojax.evaluation import graph_plots as plots
from astrojax.evaluation import reaction_metrics as metrics
from astrojax.evaluation.latents import active_dimensions
from astrojax.evaluation.reaction_baselines import BASELINES, fit_and_score
from astrojax.files import write_atomically

# Candidates that a network is asked for, and how many reactions a drawn pathway has.
_ASKED = 20
_DRAWN = 10
# Of the reactions that either of two near relatives has, the share that both have.
_NEAR = 0.5


def evaluate(task, params, mesh: jax.sharding.Mesh, workdir: Path, step: int) -> dict[str, Any]:
    """Writes ``eval/metrics.json``, ``eval/candidates.csv`` and plots: precision and recall, a reliability diagram, a
    latent map, a drawn pathway.

    All candidates are reactions that no network of the training split has, and all their compounds and compartments are
    in the draft. ``known`` is of those that another network has, and adds who; it repeats the scores for networks that
    have no near relative. Intervals are over reactions, those of the same compounds together, as they are held out.
    Probabilities are calibrated on the validation split. Reactions are written again from their mean latents, with the
    hard constraint that elements balance, and without.
    """
    folder = workdir / "eval"
    store = task.stores["heldout"]
    places = np.flatnonzero(store.fits(task.config.budget))
    say(f"scoring {len(places):,} candidates on {len(task.universe.networks)} drafts")
    logit, means = task.predict(params, mesh, store, places)
    calibrations = task.calibrations(params, mesh)
    probability = calibrations.unknown(logit)
    rebuilt = task.rewrite(params, mesh, store, places)
    if jax.process_index():
        return {}
    fields = store.fields["globals"]
    pairs = Pairs(*(np.asarray(fields[name])[places] for name in ("network", "reaction")), fields["label"][places] > 0)
    group = same_compounds(task.universe, pairs.reaction)
    result: dict[str, Any] = {
        "step": step,
        "candidates": len(places),
        "too_large": len(store) - len(places),
        "networks": len(task.universe.networks),
        "positives": int(pairs.label.sum()),
        **_scores(pairs, probability, group),
        f"recovery_at_{_ASKED}_by_chance": metrics.recovery_at(
            _ASKED, pairs.network, pairs.label, np.zeros(len(places))
        ),
        "expected_calibration_error": calibration.expected_calibration_error(pairs.label, probability),
        "expected_calibration_error_uncalibrated": calibration.expected_calibration_error(
            pairs.label, 1 / (1 + np.exp(-logit))
        ),
        # NaN where no formulas are known.
        "reconstruction_exact": _share(rebuilt["balanced"]),
        "reconstruction_exact_unbalanced": _share(rebuilt["likeliest"]),
        "reconstructed_reactions": len(rebuilt["balanced"]),
        "active_dimensions": active_dimensions(means),
        "baselines": {},
    }
    result["known"], bins_known = _known(task, calibrations, pairs, group, logit)
    train = training_candidates(task.universe, task.drafts, seed=0)
    scores = {"graph VAE": probability}
    for name in BASELINES:
        say(f"fitting {name}")
        scores[name] = fit_and_score(name, task.universe, task.drafts, train, pairs)
        value, low, high = metrics.auprc_difference(group, pairs.label, probability, scores[name])
        result["baselines"][name] = _scores(pairs, scores[name], group) | {"auprc_behind": [value, low, high]}
    write_atomically(folder / "metrics.json", json.dumps(result, indent=2).encode() + b"\n")
    write_atomically(folder / "candidates.csv", _table(task.universe, pairs, probability).encode())
    plots.precision_recall(folder / "precision_recall.png", pairs.label, scores)
    bins = calibration.reliability(pairs.label, probability)
    plots.reliability_diagram(folder / "reliability.png", {"graph VAE": bins, "and who has it": bins_known})
    plots.latent_map(folder / "latent_map.png", means, probability, "probability", "Held-out candidates")
    plots.pathway(folder / "pathway.png", task.universe, _pathway(task, pairs, probability))
    return _summary(result)


def _known(
    task, calibrations, pairs: Pairs, group: np.ndarray, logit: np.ndarray
) -> tuple[dict[str, Any], calibration.Reliability]:
    """Scores of the pairs whose reaction another network has: without and with who has it, by that alone, and the same
    for the networks that have no near relative; and the reliability of those with."""
    present = task.universe.present
    kept = held_by_another(present, pairs.network, pairs.reaction)
    pairs, group, logit = Pairs(*(x[kept] for x in pairs)), group[kept], logit[kept]
    alike = likeness_to_others(task.drafts)
    held = held_by_relatives(present, alike)[pairs.network, pairs.reaction]
    probability = calibrations.known(logit, held)
    scores = {"unknown": calibrations.unknown(logit), "known": probability, "relatives_alone": held}
    alone = (alike.max(axis=1) < _NEAR)[pairs.network]
    result = {
        "candidates": len(logit),
        "positives": int(pairs.label.sum()),
        "expected_calibration_error": calibration.expected_calibration_error(pairs.label, probability),
        **{name: _scores(pairs, score, group) for name, score in scores.items()},
        "networks_without_near_relatives": len(np.unique(pairs.network[alone])),
    }
    if alone.any():
        few = Pairs(*(x[alone] for x in pairs))
        result["without_near_relatives"] = {
            name: _scores(few, score[alone], group[alone]) for name, score in scores.items()
        }
    return result, calibration.reliability(pairs.label, probability)


def _share(true: np.ndarray) -> float:
    return float(np.mean(true)) if len(true) else math.nan


def _scores(pairs: Pairs, score: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    value, low, high = metrics.auprc_interval(group, pairs.label, score)
    return {
        "auroc": metrics.auroc(pairs.label, score),
        "auprc": value,
        "auprc_interval95": [low, high],
        f"recovery_at_{_ASKED}": metrics.recovery_at(_ASKED, pairs.network, pairs.label, score),
    }


def _table(universe, pairs: Pairs, probability: np.ndarray) -> str:
    lines = ["network,reaction,probability,present"]
    order = np.lexsort((-probability, pairs.network))
    for network, reaction, label, value in zip(*(x[order] for x in (*pairs, probability)), strict=True):
        lines.append(f"{universe.networks[network]},{universe.reactions[reaction].id},{value:.4f},{int(label)}")
    return "\n".join(lines) + "\n"


def _pathway(task, pairs: Pairs, probability: np.ndarray) -> list[tuple[int, float | None]]:
    """The likeliest candidate of any network, and around it the draft's reactions and other candidates: each next one
    shares compounds with those before it that the fewest reactions have."""
    universe, best = task.universe, int(np.argmax(probability))
    network, reaction = int(pairs.network[best]), int(pairs.reaction[best])
    compounds = [{term.compound for term in r.terms} for r in universe.reactions]
    degree = participation(universe).sum(axis=1)
    telling = np.where(degree <= plots.ubiquitous(universe), 1 / np.maximum(degree, 1), 0.0)

    here = pairs.network == network
    asked = {int(r): float(p) for r, p in zip(pairs.reaction[here], probability[here], strict=True) if p >= 0.5}
    others = {int(r): None for r in np.flatnonzero(task.drafts[network])} | asked
    drawn, reached = [(reaction, others.pop(reaction))], set(compounds[reaction])
    while others and len(drawn) < _DRAWN:
        shared = {other: sum(telling[c] for c in compounds[other] & reached) for other in others}
        nearest = max(shared, key=shared.get)
        if not shared[nearest]:
            break
        drawn.append((nearest, others.pop(nearest)))
        reached |= compounds[nearest]
    return drawn


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """What a person reads at the end of a run: each score beside the baselines'."""
    lines: dict[str, Any] = {key: result[key] for key in ("step", "candidates", "positives")}
    for key in ("auroc", "auprc", f"recovery_at_{_ASKED}"):
        beside = [part for name, scores in result["baselines"].items() for part in (name, scores[key])]
        lines[key] = [result[key], *beside]
    known, alone = (result["known"][name]["auprc"] for name in ("known", "relatives_alone"))
    lines["auprc_told_who_has_it"] = [known, "relatives_alone", alone]
    keys = ("expected_calibration_error", "reconstruction_exact", "reconstruction_exact_unbalanced")
    return lines | {key: result[key] for key in keys}
