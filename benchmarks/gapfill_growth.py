"""Does a filled draft grow? Organisms without reactions that they cannot do without, and that training never saw.

    python -m benchmarks.gapfill_growth --checkpoint runs/graph_vae

Of each shipped model that grows, three held-out reactions are taken out that it needs each, and whose
compounds the draft keeps. `astrojax.gapfill` fills the draft, and may know what the other models have: with what it
adds by default, and with the least that lets it reach a tenth of the growth it had (`--grow`); the latter also as if
all candidates were equally likely. By cobrapy, does each grow? Needs `cobra`.

It is an easier question than that of a new genome: the reactions taken out were never seen, but most candidates that
compete with them were learnt from as what this very organism does not have.
"""

import argparse
import dataclasses
import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import libsbml
import numpy as np

import astrojax
from astrojax.data.networks.candidates import participation
from astrojax.data.networks.matching import could_take, keys_of, make_draft
from astrojax.data.networks.sbml import name_of, parse_sbml, read_network
from astrojax.data.networks.universe import Universe
from astrojax.errors import RunError
from astrojax.gapfill import LACKING, fill
from benchmarks.record import save_result

_MODELS = Path("data/metabolic")
_GROWS = 1e-6
_REMOVED = 3
_SHARE = 0.1

# In a process of its own: its solver ends the process that asks it of some models.
_COBRA = """
import json, logging, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import cobra
model = cobra.io.read_sbml_model(sys.argv[1])
growth = model.slim_optimize()
needed = []
for name in sys.argv[2:]:
    name = name.removeprefix("R_")
    if name in model.reactions:
        with model:
            model.reactions.get_by_id(name).knock_out()
            left = model.slim_optimize()
        if not left > 1e-6:
            needed.append(name)
print(json.dumps([growth, needed]))
"""


def grow_of(model: Path, reactions: list[str] = ()) -> tuple[float, list[str]] | None:
    """Growth, and which of ``reactions`` it cannot do without; None where cobrapy cannot solve the model."""
    command = [sys.executable, "-c", _COBRA, str(model), *reactions]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1].replace("NaN", "0"))


def write_without(model: Path, reactions: list[str], draft: Path) -> None:
    """Takes reactions out of a model, and out of its groups, without which cobrapy does not read it."""
    document = parse_sbml(model)
    groups = document.getModel().getPlugin("groups")
    for name in reactions:
        document.getModel().removeReaction(name)
        for group in groups.getListOfGroups() if groups else ():
            for i in reversed(range(group.getNumMembers())):
                if group.getMember(i).getIdRef() == name:
                    group.removeMember(i)
    libsbml.writeSBMLToFile(document, str(draft))


def without_network(universe: Universe, place: int) -> Universe:
    """What the others have; reactions that only it has are still there, but nobody's, and how reactions are written and
    whether they turn it has had a say in."""
    networks, organisms = (names[:place] + names[place + 1 :] for names in (universe.networks, universe.organisms))
    present = np.delete(universe.present, place, axis=0)
    return dataclasses.replace(universe, networks=networks, organisms=organisms, present=present)


def fill_one(run, model: Path, folder: Path) -> dict | None:
    """Takes out, fills, grows; None where the model does not grow, or needs no held-out reaction."""
    task, network = run.task, read_network(model)
    place = task.universe.networks.index(name_of(model))
    universe = without_network(task.universe, place)
    whole = make_draft(universe, network)
    own = keys_of(network, whole.matched)
    held_out = np.flatnonzero(task.universe.present[place] & (task.split == "heldout"))
    id_of = {r: own[key].id for r in held_out.tolist() if (key := universe.key(universe.reactions[r])) in own}
    found = grow_of(model, list(id_of.values()))
    if found is None or not found[0] > _GROWS or not found[1]:
        return None
    growth, needed = found
    missing = [r for r, name in id_of.items() if name.removeprefix("R_") in needed]
    missing = np.random.default_rng(0).permutation(missing)[:_REMOVED].tolist()
    # As far as the draft keeps their compounds.
    takes_part = participation(universe)
    left = whole.present.copy()
    left[missing] = False
    absent = (takes_part @ left.astype(np.int32)) == 0
    lacking = absent.astype(np.int32) @ takes_part
    missing = [r for r in missing if not lacking[r]]
    if not missing:
        return None
    draft, out = folder / "draft.xml", folder / "filled.xml"
    write_without(model, [id_of[r] for r in missing], draft)

    @functools.cache
    def scores() -> np.ndarray:
        found = make_draft(universe, read_network(draft))
        candidates = np.flatnonzero(could_take(universe, found))
        return task.score_candidates(run.params, run.mesh, universe, found, candidates, LACKING)

    def filled(score, grow: float | None) -> dict:
        try:
            _, proposals, _ = fill(draft, universe, score, out=out, table=folder / "filled.csv", grow=grow)
        except RunError as error:
            return {"failed": str(error)}
        ranked = [p.reaction for p in proposals if p.probability is not None]
        added = {p.reaction for p in proposals if not p.why_not}
        return {
            "candidates": len(ranked),
            "rank": [ranked.index(r) + 1 if r in ranked else None for r in missing],
            "added": len(added),
            "found": len(added & set(missing)),
            "growth": (grow_of(out) or [None])[0],
        }

    record = {
        "organism": network.organism,
        "removed": [universe.reactions[r].id for r in missing],
        "in_other_models": universe.present[:, missing].sum(axis=0).tolist(),
        "growth": growth,
        "growth_of_draft": (grow_of(draft) or [None])[0],  # None where cobrapy cannot solve it.
        "by_default": filled(lambda *_: scores(), None),
        "to_grow": filled(lambda *_: scores(), _SHARE * growth),
        # What flux balance alone would add.
        "to_grow_unscored": filled(lambda _, __, reactions: np.full(len(reactions), 0.5), _SHARE * growth),
    }
    print(model.name, json.dumps(record), flush=True)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    flags = parser.parse_args()
    run, records = astrojax.load_run(flags.checkpoint, devices=jax.devices()[:1]), {}
    for model in sorted(_MODELS.glob("*.xml.gz")):
        with tempfile.TemporaryDirectory() as folder:
            if record := fill_one(run, model, Path(folder)):
                records[model.name] = record
    figures = {}
    for way in ("by_default", "to_grow", "to_grow_unscored"):
        fills = [record[way] for record in records.values()]
        figures[way] = {
            "grown": sum((one.get("growth") or 0) > _GROWS for one in fills),
            "added": sum(one.get("added", 0) for one in fills),
            "found": sum(one.get("found", 0) for one in fills),
            "grown_beyond_the_whole_model": sum(
                (record[way].get("growth") or 0) > 1.01 * record["growth"] for record in records.values()
            ),
        }
    figures["drafts_that_do_not_grow"] = sum(
        record["growth_of_draft"] is not None and record["growth_of_draft"] <= _GROWS for record in records.values()
    )
    figures["removed"] = sum(len(record["removed"]) for record in records.values())
    print(f"of {len(records)} drafts: {figures}")
    save_result("gapfill_growth", figures | {"drafts": records}, {"jax": jax.__version__})


if __name__ == "__main__":
    main()
