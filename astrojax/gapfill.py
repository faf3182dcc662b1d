"""Adds to a draft metabolic model the reactions that a trained network finds missing; ``--help`` says how."""

import argparse
import csv
import dataclasses
import io
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from astrojax import load_run
from astrojax.chemistry.formula import format_formula, imbalance
from astrojax.data.networks.closed_cell import ClosedCells, Way
from astrojax.data.networks.growth import OutOfReach, check_installed, find_needed
from astrojax.data.networks.identifiers import plain
from astrojax.data.networks.identity import DATABASES
from astrojax.data.networks.matching import Draft, could_take, make_draft
from astrojax.data.networks.network import NOTHING, Metabolite
from astrojax.data.networks.sbml import name_of, read_network
from astrojax.data.networks.universe import Compound, Term, Universe
from astrojax.data.networks.writing import Addition, NewSpecies, write_filled
from astrojax.errors import FAILURES, RequestError, RunError, report
from astrojax.files import write_atomically

_EPILOG = """
Candidates are reactions of other organisms that the draft lacks, all of whose compounds it has somewhere and all of
whose compartments. What makes or loses an element (hydrogen aside, whose number follows the charge a compound is
written at) is none; where a formula is not known, that is not known either. Protons are added or taken away where they
alone balance a reaction by the draft's own formulas. The table lists all that the draft lacks, candidates first and the
likeliest of them on top, and says why each was added or not.

Probabilities go by what surrounds a reaction in the draft, by which organisms of the pool have it, those most like the
draft first, and by how much the draft is thought to lack (--lacking): of a draft that lacks little, few candidates are
true.

What is added is whatever is likely enough; or with --grow the least, by probability, that lets the draft's objective
reach a rate in its own medium, by flux balance: the flux through what is added is minimised, each unit at the price of
-log(probability), and nothing is kept that can be done without. A compound that is new outside the cell may leave, by
an exchange of its own.

What would let the cell make ATP (an energy-generating cycle) or electrons of no more than water and protons, or carbon,
nitrogen, phosphorus or sulfur where it takes up none, is not added: of the reactions that do so together the least
likely is left out, or, if --grow needs that one, another. Of a draft that does so by itself no more can be known, which
is said.

examples:
  python -m astrojax.gapfill draft.xml --checkpoint runs/graph --out filled.xml
  python -m astrojax.gapfill draft.xml.gz --checkpoint runs/graph --pool universe.json.zst --out filled.xml --accept 0.9
  python -m astrojax.gapfill draft.xml --checkpoint runs/graph --out filled.xml --grow 0.1
"""

_COLUMNS = (
    "rank",
    "reaction",
    "name",
    "equation",
    "probability",
    "balanced",
    "hydrogen_and_charge_balanced",
    "protons_changed",
    "compounds_missing",
    "networks",
    "accepted",
    "why_not",
)

# The share of its organism's reactions that a draft is thought to lack where nobody says.
LACKING = 0.2

# The price of a unit of flux, beside -log(probability), and the least probability that has a price.
_STEP, _LEAST = 0.05, 1e-6


# (universe, draft, positions of reactions) -> the probability of each that the draft's organism has it.
Score = Callable[[Universe, Draft, np.ndarray], np.ndarray]


# What a draft makes of nothing, as :func:`astrojax.data.networks.closed_cell.made_of_nothing` says it.
Made = Mapping[str, bool | None]


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A reaction that the draft lacks, and what became of it.

    Attributes:
        reaction: its position in the universe.
        terms: as it is in the universe, or with other protons (:func:`_protonated`).
        probability: that the organism has it; None where the reaction is no candidate.
        unbalanced: what it makes or loses of elements other than hydrogen; None where a formula is not known.
        protonation: what ``terms`` make or lose of hydrogen and charge in the draft; None where one is not known.
        missing: how many of its compounds the draft lacks.
        why_not: what speaks against adding it; empty where it is added.
    """

    reaction: int
    terms: Sequence[Term]
    probability: float | None
    unbalanced: dict[str, float] | None
    protonation: dict[str, float] | None
    missing: int
    why_not: str


def main(arguments: list[str]) -> int:
    """Fills one draft. Returns 0: done; 1: it failed; 2: the request was wrong; 130: interrupted."""
    flags = _parser().parse_args(arguments)
    table = flags.table or _beside(flags.out)
    try:
        _check(flags, table)
        universe, score = _open(flags.checkpoint, flags.pool, flags.lacking)
        filled = fill(
            flags.model,
            universe,
            score,
            out=flags.out,
            table=table,
            accept=flags.accept,
            limit=flags.limit,
            grow=flags.grow,
        )
        print(render(universe, *filled), end="")
    except FAILURES as error:
        return report(error, place=flags.out, interrupted="interrupted")
    print(f"{flags.out}: the draft with what was added\n{table}: all candidates, the likeliest first")
    return 0


def fill(
    model: Path,
    universe: Universe,
    score: Score,
    *,
    out: Path,
    table: Path,
    accept: float | None = None,
    limit: int = 100,
    grow: float | None = None,
) -> tuple[Draft, list[Proposal], Made]:
    """Scores what a draft lacks, and writes the draft with the best of it added, and a table of everything.

    Args:
        model: the draft, SBML.
        universe: the reactions to choose from.
        score: says how likely they are.
        out: where the filled model goes.
        table: where the table goes, CSV.
        accept: the least probability of a reaction that is added; 0.5, or anything with ``grow``.
        limit: at most so many are added, the likeliest.
        grow: add only what the draft's objective does not reach this rate without.

    Returns:
        The draft, all that it lacks, and what it makes of nothing by itself.

    Raises:
        RequestError: see :func:`astrojax.data.networks.writing.write_filled`.
        RunError: a score is no probability, or the rate cannot be reached (with so few).
    """
    draft = make_draft(universe, read_network(model))
    if accept is None:
        accept = 0.5 if grow is None else 0.0
    proposals = _propose(universe, draft, score, accept)
    accepted, watch = _added(proposals), _Watch(universe, draft, proposals)
    if grow is None:
        harmful, reason = watch.harmful(accepted, limit), f"beyond the limit of {limit}"
        chosen = [proposal for proposal in accepted if proposal.reaction not in harmful][:limit]
    else:
        chosen, harmful = _needed(model, universe, draft, accepted, watch, grow)
        reason = f"not needed to reach {grow:g}"
        if len(chosen) > limit:
            raise RunError(f"to reach {grow:g} takes {len(chosen)} reactions, more than --limit {limit}")
    reasons = harmful | dict.fromkeys((proposal.reaction for proposal in chosen), "")
    proposals = [
        dataclasses.replace(proposal, why_not=proposal.why_not or reasons.get(proposal.reaction, reason))
        for proposal in proposals
    ]
    write_filled(model, out, [_addition(universe, draft, proposal) for proposal in _added(proposals)])
    write_atomically(table, _table(universe, draft, proposals).encode())
    return draft, proposals, watch.made


def render(universe: Universe, draft: Draft, proposals: Sequence[Proposal], made: Made) -> str:
    """What was found and done, for people."""
    network = draft.network
    scored = [proposal for proposal in proposals if proposal.probability is not None]
    added = [proposal for proposal in scored if not proposal.why_not]
    masked = sum(bool(proposal.unbalanced) for proposal in proposals)
    reasons = Counter(proposal.why_not for proposal in scored if proposal.why_not)
    lines = [
        f"{network.name}: {len(network.reactions):,} reactions, {int(draft.present.sum()):,} of them among the "
        f"{len(universe.reactions):,} of the pool",
        f"{len(network.metabolites):,} metabolites, {draft.matched.count(None):,} of them unknown to the pool",
        *(f"{count:,} {remark}" for remark, count in network.remarks.items()),
        f"{len(proposals):,} reactions of the pool are not in the draft: {len(scored):,} candidates, {masked:,} masked "
        f"(they make or lose an element), {len(proposals) - len(scored) - masked:,} of what the draft lacks",
        f"{sum(proposal.unbalanced is None for proposal in scored):,} candidates are unchecked: a formula is not known",
        *(f"not added: {count:,}, {reason}" for reason, count in reasons.most_common()),
        f"added: {len(added):,}; {sum(proposal.unbalanced is None for proposal in added):,} of them unchecked, "
        f"{sum(bool(proposal.protonation) for proposal in added):,} that balance but in hydrogen or charge",
    ]
    for outcome, why in (
        (True, "the draft does so by itself"),
        (None, "the draft lacks the compounds or formulas for that"),
    ):
        if added and (products := [product for product, is_made in made.items() if is_made is outcome]):
            lines.append(f"not known: whether what is added makes {' or '.join(products)} of nothing; {why}")
    return "\n".join(lines) + "\n"


def _added(proposals: Sequence[Proposal]) -> list[Proposal]:
    return [proposal for proposal in proposals if not proposal.why_not]


def _needed(
    model: Path, universe: Universe, draft: Draft, proposals: Sequence[Proposal], watch: "_Watch", rate: float
) -> tuple[list[Proposal], dict[int, str]]:
    """Those without which the objective does not reach a rate, the likeliest where there is a choice; and what flux
    balance would have liked as well, but is harmful beside them."""
    left_out: dict[int, Proposal] = {}
    must: set[int] = set()
    newest: int | None = None
    while True:
        offered = [proposal for proposal in proposals if proposal.reaction not in left_out]
        try:
            needed = _needed_of(model, universe, draft, offered, rate)
        except OutOfReach:
            if newest is None:
                raise
            # There is no way without: another one of those that are harmful together has to go.
            must.add(newest)
            del left_out[newest]
            newest = None
            continue
        needed.sort(key=lambda proposal: (proposal.reaction not in must, -proposal.probability))
        harmful = watch.harmful(needed)
        if not harmful:
            break
        if stuck := harmful.keys() & must:
            reaction = stuck.pop()
            raise RunError(
                f"no way was found to {rate:g} but with what {harmful[reaction]}: {universe.reactions[reaction].id}"
            )
        # One at a time, the least likely first: what takes its place may be harmless with the others.
        worst = [proposal for proposal in needed if proposal.reaction in harmful][-1]
        newest, left_out[worst.reaction] = worst.reaction, worst
    beside = [watch.harmful([*needed, proposal]) for proposal in left_out.values()]
    return needed, {reaction: why for found in beside for reaction, why in found.items()}


def _needed_of(
    model: Path, universe: Universe, draft: Draft, proposals: Sequence[Proposal], rate: float
) -> list[Proposal]:
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole.xml"
        names = write_filled(model, whole, [_addition(universe, draft, proposal) for proposal in proposals])
        # A certain reaction has a price too: of two ways the shorter one.
        prices = [_STEP - math.log(max(proposal.probability, _LEAST)) for proposal in proposals]
        needed = find_needed(whole, dict(zip(names, prices, strict=True)), rate)
    of_name = dict(zip(names, proposals, strict=True))
    return [of_name[name] for name in needed]


class _Watch:
    """Tells which of the candidates would let the draft make something of nothing.

    Attributes:
        made: what it makes without them (:attr:`astrojax.data.networks.closed_cell.ClosedCells.made`).
    """

    def __init__(self, universe: Universe, draft: Draft, proposals: Sequence[Proposal]):
        candidates = [proposal for proposal in proposals if proposal.probability is not None]
        places, metabolites = dict(draft.places), list(draft.network.metabolites)
        for term in (term for candidate in candidates for term in candidate.terms):
            if (term.compound, term.compartment) not in places:
                places[term.compound, term.compartment] = len(metabolites)
                compound = universe.compounds[term.compound]
                metabolites.append(
                    Metabolite(
                        id=compound.name,
                        name=compound.name,
                        compartment=term.compartment,
                        elements=compound.elements,
                        charge=compound.charge,
                        references=frozenset((kind, key) for kind, keys in compound.evidence.items() for key in keys),
                    )
                )
        self._cells = ClosedCells(dataclasses.replace(draft.network, metabolites=tuple(metabolites)))
        self.made = self._cells.made
        self._ways = {
            candidate.reaction: Way(
                {places[term.compound, term.compartment]: term.coefficient for term in candidate.terms},
                universe.reactions[candidate.reaction].reversible,
            )
            for candidate in candidates
        }

    def harmful(self, proposals: Sequence[Proposal], enough: int | None = None) -> dict[int, str]:
        """Reactions that do so with those before them, and what they do; as far as it takes to find ``enough`` that do
        not."""
        found = self._cells.closing([self._ways[proposal.reaction] for proposal in proposals], enough)
        return {proposals[at].reaction: f"lets the cell make {product} of nothing" for at, product in found.items()}


def _propose(universe: Universe, draft: Draft, score: Score, accept: float) -> list[Proposal]:
    """The candidates, the likeliest first, then what else the draft lacks."""
    chosen = could_take(universe, draft)
    candidates = np.flatnonzero(chosen)
    probabilities = np.asarray(score(universe, draft, candidates), np.float64)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise RunError("a score is not between 0 and 1: the run has diverged")
    proposals = []
    for place in np.argsort(-probabilities, kind="stable"):
        why_not = f"probability below {accept:g}" if probabilities[place] < accept else ""
        proposals.append(_proposal(universe, draft, int(candidates[place]), float(probabilities[place]), why_not))
    for place in np.flatnonzero(~draft.present & ~chosen):
        reaction = universe.reactions[place]
        if off := universe.imbalance(reaction):
            why_not = f"out of balance: {', '.join(f'{symbol} {count:+g}' for symbol, count in off.items())}"
        elif missing := draft.missing(reaction):
            why_not = f"compounds that the draft lacks: {missing}"
        else:
            why_not = f"the draft has no compartment {draft.missing_compartments(reaction)[0]}"
        proposals.append(_proposal(universe, draft, int(place), None, why_not))
    return proposals


def _proposal(universe: Universe, draft: Draft, place: int, probability: float | None, why_not: str) -> Proposal:
    reaction = universe.reactions[place]
    terms = _protonated(universe, draft, reaction.terms)
    return Proposal(
        reaction=place,
        terms=terms,
        probability=probability,
        unbalanced=universe.imbalance(reaction),
        protonation=_protonation(universe, draft, terms),
        missing=draft.missing(reaction),
        why_not=why_not,
    )


def _protonated(universe: Universe, draft: Draft, terms: Sequence[Term]) -> Sequence[Term]:
    """A reaction's terms with as many protons as balance it in the draft, whose formulas may be of other charges.

    Only where protons alone do, and within one compartment: across a membrane they may be what drives it.
    """
    left, compartments = _protonation(universe, draft, terms), {term.compartment for term in terms}
    protons = [(c, where) for c, where in draft.places if {where} == compartments and universe.compounds[c].proton]
    if not left or not protons:
        return terms
    own = [term for term in terms if universe.compounds[term.compound].proton]
    count = sum(term.coefficient for term in own) - left.get("H", 0)
    balanced = [term for term in terms if term not in own]
    if abs(count) > NOTHING:
        balanced.append(Term(*protons[0], count))
    return balanced if _protonation(universe, draft, balanced) == {} else terms


def _protonation(universe: Universe, draft: Draft, terms: Sequence[Term]) -> dict[str, float] | None:
    """By the draft's own formulas."""
    members = []
    for term in terms:
        known = draft.places.get((term.compound, term.compartment))
        member = universe.compounds[term.compound] if known is None else draft.network.metabolites[known]
        members.append((term.coefficient, member))
    if any(member.elements is None or member.charge is None for _, member in members):
        return None
    return imbalance((c, {"H": member.elements.get("H", 0), "charge": member.charge}) for c, member in members)


def _addition(universe: Universe, draft: Draft, proposal: Proposal) -> Addition:
    """A reaction of the universe with the draft's own species where it has them."""
    reaction = universe.reactions[proposal.reaction]
    terms = []
    for term in proposal.terms:
        known = draft.places.get((term.compound, term.compartment))
        if known is None:
            species = _new_species(universe.compounds[term.compound], term.compartment)
        else:
            species = draft.network.metabolites[known].id
        terms.append((species, term.coefficient))
    return Addition(
        id=reaction.id,
        name=reaction.name,
        terms=tuple(terms),
        reversible=reaction.reversible,
        probability=proposal.probability,
        networks=_networks(universe, proposal.reaction),
        references=_commonest(reaction.accessions),
    )


def _new_species(compound: Compound, compartment: str) -> NewSpecies:
    identifiers = [
        accession
        for database in ("bigg.metabolite", "seed.compound", "kegg.compound")
        for accession in compound.accessions.get(database, ()) or compound.evidence.get(database, ())
    ]
    return NewSpecies(
        id=identifiers[0] if identifiers else plain(compound.name),
        name=compound.name,
        compartment=compartment,
        formula=None if compound.elements is None else format_formula(compound.elements),
        charge=compound.charge,
        references=_commonest({d: compound.accessions[d] for d in DATABASES if d in compound.accessions}),
    )


def _commonest(accessions: Mapping[str, Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((database, texts[0]) for database, texts in accessions.items())


def _networks(universe: Universe, place: int) -> tuple[str, ...]:
    return tuple(universe.networks[n] for n in np.flatnonzero(universe.present[:, place]))


def _table(universe: Universe, draft: Draft, proposals: Sequence[Proposal]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for rank, proposal in enumerate(proposals, start=1):
        reaction = universe.reactions[proposal.reaction]
        writer.writerow(
            (
                "" if proposal.probability is None else rank,
                reaction.id,
                reaction.name,
                _equation(universe, proposal.terms, reaction.reversible),
                "" if proposal.probability is None else f"{proposal.probability:.4g}",
                _yes_no(proposal.unbalanced),
                _yes_no(proposal.protonation),
                "no" if proposal.terms == reaction.terms else "yes",
                proposal.missing,
                " ".join(_networks(universe, proposal.reaction)),
                "no" if proposal.why_not else "yes",
                proposal.why_not,
            )
        )
    return text.getvalue()


def _yes_no(left: dict[str, float] | None) -> str:
    """Whether nothing is left of a balance."""
    return "unknown" if left is None else "no" if left else "yes"


def _equation(universe: Universe, terms: Sequence[Term], reversible: bool) -> str:
    """``"ATP [c] + 2 H2O [c] => AMP [c] + 2 Phosphate [c]"``."""

    def side(sign: int) -> str:
        return " + ".join(
            f"{'' if abs(t.coefficient) == 1 else f'{abs(t.coefficient):g} '}"
            f"{universe.compounds[t.compound].name} [{t.compartment}]"
            for t in terms
            if t.coefficient * sign > 0
        )

    return f"{side(-1)} {'<=>' if reversible else '=>'} {side(1)}"


def _open(checkpoint: Path, pool: str, lacking: float) -> tuple[Universe, Score]:
    """The reactions to choose from and what scores them."""
    universe = None if pool == "reactions" else Universe.load(Path(pool))
    run = load_run(checkpoint)
    if not hasattr(run.task, "score_candidates"):
        task = type(run.config).__struct_config__.tag
        raise RequestError(f"{checkpoint}: a run of the task {task}, which scores no reactions")

    def score(universe: Universe, draft: Draft, reactions: np.ndarray) -> np.ndarray:
        return run.task.score_candidates(run.params, run.mesh, universe, draft, reactions, lacking)

    return universe or run.task.universe, score


def _check(flags: argparse.Namespace, table: Path) -> None:
    """What can be known to be wrong before a run is opened."""
    if flags.grow is not None:
        check_installed()
        if not 0 < flags.grow < math.inf:
            raise RequestError(f"--grow is a rate above 0, not {flags.grow:g}")
    if flags.accept is not None and not 0 <= flags.accept <= 1:
        raise RequestError(f"--accept is a probability, between 0 and 1, not {flags.accept:g}")
    if not 0 < flags.lacking <= 1:
        raise RequestError(f"--lacking is a share, above 0 and at most 1, not {flags.lacking:g}")
    if flags.limit < 1:
        raise RequestError(f"--limit should be above 0, not {flags.limit}")
    if not flags.model.is_file():
        raise RequestError(f"{flags.model}: no such file")
    for file in (flags.out, table):
        if not file.parent.is_dir():
            raise RequestError(f"{file}: no such folder as {file.parent}")
        if file.resolve() == flags.model.resolve():
            raise RequestError(f"{file} is the draft itself; choose another name")
    if flags.out.resolve() == table.resolve():
        raise RequestError(f"{table} is to be both the model and the table; choose another --table")


def _beside(out: Path) -> Path:
    """``filled.csv`` for ``filled.xml.gz``."""
    return out.with_name(f"{name_of(out)}.csv")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m astrojax.gapfill",
        description="Adds to a draft metabolic model (SBML) the reactions that a trained network finds missing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="the draft, SBML, compressed or not")
    add("--checkpoint", required=True, type=Path, metavar="RUN", help="folder of the run that scores")
    add(
        "--pool",
        default="reactions",
        metavar="POOL",
        help="what to choose from: reactions, those the run learnt from (default), or a universe that "
        "python -m astrojax.data.networks wrote",
    )
    add("--out", required=True, type=Path, metavar="FILE", help="the filled model to write, compressed or not")
    add("--table", type=Path, metavar="FILE", help="the table of candidates, CSV (default: beside --out)")
    add("--accept", type=float, metavar="P", help="least probability of what is added (default 0.5; 0 with --grow)")
    add(
        "--lacking",
        type=float,
        default=LACKING,
        metavar="SHARE",
        help="of its organism's reactions, the share that the draft is thought to lack (default %(default)g)",
    )
    add("--limit", type=int, default=100, metavar="N", help="at most so many are added, best first (default 100)")
    add(
        "--grow",
        type=float,
        metavar="RATE",
        help="add only what the draft's objective needs to reach this rate, h-1 where it is growth (needs cobra)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
