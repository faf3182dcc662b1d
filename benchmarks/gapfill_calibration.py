"""Are the probabilities of a filled draft true? Each shipped model without a random share of its reactions.

    python -m benchmarks.gapfill_calibration --checkpoint runs/graph_vae

Each draft is scored as `astrojax.gapfill` scores it, told what it lacks (`--lacking`), from a pool of the other models.
Every reaction that another model has and all of whose compounds the draft has is a candidate; it is true where the
model had it. Beside it stands the share of the others that have it, relatives first, without the network. Candidates
are counted together and by the split that their reaction was in: what was learnt from, if in other drafts, and what was
never seen.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

import astrojax
from astrojax.data.networks.candidates import candidates
from astrojax.data.networks.matching import Draft
from astrojax.data.networks.relatives import held_by_relatives, likeness
from astrojax.evaluation.calibration import expected_calibration_error
from benchmarks.gapfill_growth import without_network
from benchmarks.record import save_result

_SHARES = (0.2, 0.05)
_ACCEPTED = 0.5


def score(run, place: int, share: float) -> dict[str, np.ndarray]:
    """Of each candidate of one draft its probability, the relatives' share, whether it is true, and its split."""
    task, universe = run.task, run.task.universe
    own = np.flatnonzero(universe.present[place])
    draft = universe.present[place].copy()
    draft[np.random.default_rng(place).choice(own, round(share * len(own)), replace=False)] = False
    others = without_network(universe, place)
    _, reactions, _ = candidates(universe, draft[None], np.flatnonzero(~draft & others.present.any(axis=0)))
    given = Draft(network=None, matched=(), present=draft)
    return {
        "probability": task.score_candidates(run.params, run.mesh, others, given, reactions, share),
        "relatives": held_by_relatives(others.present, likeness(others.present, draft))[reactions],
        "true": universe.present[place, reactions],
        "split": task.split[reactions],
    }


def figures_of(found: dict[str, np.ndarray]) -> dict[str, float]:
    true, probability = found["true"], found["probability"]
    accepted = probability >= _ACCEPTED
    return {
        "candidates": len(true),
        "true": float(true.mean()),
        "mean_probability": float(probability.mean()),
        "expected_calibration_error": expected_calibration_error(true, probability),
        "auroc": float(roc_auc_score(true, probability)),
        "auprc": float(average_precision_score(true, probability)),
        "auprc_of_relatives_alone": float(average_precision_score(true, found["relatives"])),
        "accepted": int(accepted.sum()),
        "true_of_accepted": float(true[accepted].mean()),
        "accepted_of_true": float(accepted[true].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    flags = parser.parse_args()
    run, figures = astrojax.load_run(flags.checkpoint, devices=jax.devices()[:1]), {}
    for share in _SHARES:
        parts = [score(run, place, share) for place in range(len(run.task.universe.networks))]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        figures[f"lacking_{share}"] = {"all": figures_of(found)} | {
            split: figures_of({name: values[found["split"] == split] for name, values in found.items()})
            for split in ("train", "validation", "heldout")
        }
        for split, line in figures[f"lacking_{share}"].items():
            print(f"lacking {share}, {split}:", {name: round(value, 3) for name, value in line.items()}, flush=True)
    save_result("gapfill_calibration", figures, {"jax": jax.__version__})


if __name__ == "__main__":
    main()
