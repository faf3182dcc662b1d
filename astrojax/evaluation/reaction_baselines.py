"""What a model of missing reactions has to beat: two scores that nothing is fitted to, and two regressions.

``frequency`` asks how common a candidate and its compounds are, ``common_neighbours`` how near to each other its
compounds are in the draft (Adamic and Adar 2003, Social Networks 25, 211). ``formula_regression`` knows a reaction by
its elemental formulas alone, whatever the network; ``network_regression`` knows also how its compounds are connected in
the draft, and whether the draft has reactions that are like it. Whether a reaction is reversible is asked of none but
the drafts' own: it depends on how many networks have the reaction, and thus tells it.

A reaction that is held out is in no draft, and so must be one that is learnt from, or its mark on the degrees of its
compounds would be its label. To take out each alone is not enough: the pairs of a network that have water in them would
see its degree less one where the label is true, and trees learn that. So reactions are taken out a tenth at a time, of
all drafts, and pairs with and without the reaction see the same network. Reactions of the same compounds go together
there and where settings are chosen, as they do when reactions are held out.
"""

from collections.abc import Callable

import numpy as np
import scipy.sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from astrojax.data.networks.analogues import NUM_ANALOGUE_FEATURES, Analogues
from astrojax.data.networks.candidates import Pairs, foldings, participation, placement, same_compounds, without
from astrojax.data.networks.universe import Universe

_ELEMENTS = ("C", "H", "N", "O", "P", "S")  # Of the others, which are rare, the sum.
_NETWORK_FEATURES = 7 + NUM_ANALOGUE_FEATURES
_FOLDS = 5
_INVERSE_PENALTIES = tuple(10.0**k for k in range(-4, 3))
_MAX_TREES = 200


def fit_and_score(name: str, universe: Universe, drafts: np.ndarray, train: Pairs, test: Pairs) -> np.ndarray:
    """Fits a baseline on ``train`` and scores ``test``, of which it reads no label.

    Args:
        name: one of ``BASELINES``.
        universe: compounds and reactions; who has which is not read from it.
        drafts: ``[network, reaction]`` bool, what each network still holds; no reaction of ``test`` is in the draft it
            is a candidate for.
        train: pairs of a network and a reaction whose label is whether its draft holds it.
        test: candidates.

    Returns:
        ``[p]``, higher where a reaction is more likely missing; a probability from the regressions.

    Raises:
        ValueError: no such baseline, or drafts of another universe.
    """
    if name not in BASELINES:
        raise ValueError(f"{name=} should be one of {', '.join(BASELINES)}")
    if drafts.shape != universe.present.shape:
        raise ValueError(f"{drafts.shape=} should be {universe.present.shape}, networks and reactions of the universe")
    # Threads wait for each other at every node of a tree: on busy cores 100 times as long as one alone takes.
    with threadpool_limits(limits=1):
        return BASELINES[name](universe, drafts, train, test)


def formula_features(universe: Universe) -> np.ndarray:
    """``[reaction, f]``: of substrates, of products, and of their difference the atoms of each element, the charge, the
    number of compounds, and that of those without formula.

    Atoms and charge are multiplied by the coefficients; numbers ``x`` are on the scale sign(x) log(1 + |x|).
    """
    formulas = np.zeros((len(universe.compounds), len(_ELEMENTS) + 2))
    for row, compound in zip(formulas, universe.compounds, strict=True):
        row[-1] = compound.charge or 0
        for symbol, number in (compound.elements or {}).items():
            row[_ELEMENTS.index(symbol) if symbol in _ELEMENTS else len(_ELEMENTS)] += number
    unknown = [compound.elements is None for compound in universe.compounds]
    sides = np.zeros((2, len(universe.reactions), formulas.shape[1] + 2))
    for r, reaction in enumerate(universe.reactions):
        for term in reaction.terms:
            side = sides[int(term.coefficient > 0), r]
            side[:-2] += abs(term.coefficient) * formulas[term.compound]
            side[-2:] += 1, unknown[term.compound]
    features = np.concatenate([*sides, sides[1] - sides[0]], axis=1)
    return np.sign(features) * np.log1p(np.abs(features))


def network_features(universe: Universe, drafts: np.ndarray, pairs: Pairs) -> np.ndarray:
    """``[p, 10]``, how the compounds of a candidate are connected in the draft, and what it has that is like it.

    - log(1 + least degree) and mean log(1 + degree), where a degree is the number of the draft's reactions.
    - how many compounds have no reaction, how many none in the compartment in question, and how many are dead ends:
      only made or only used.
    - the share of all drafts that hold every compound.
    - the score of ``common_neighbours``.
    - what known reactions that are like it say (:meth:`astrojax.data.networks.analogues.Analogues.features`).
    """
    reactants, made, used, located = _incidences(universe)
    degree, makers, users = (drafts.astype(np.int32) @ x.T for x in (reactants, made, used))
    size = np.diff(reactants.indptr)
    least = np.minimum.reduceat(degree[:, reactants.indices], reactants.indptr[:-1], axis=1)
    absent = (degree == 0) @ reactants
    tables = (
        np.log1p(least),
        np.log1p(degree) @ reactants / size,
        absent,
        (drafts.astype(np.int32) @ located.T == 0) @ located,
        ((makers > 0) != (users > 0)) @ reactants,
        np.broadcast_to((absent == 0).mean(axis=0), absent.shape),
    )
    features = [table[pairs.network, pairs.reaction] for table in tables]
    known, where = Analogues(universe, drafts), zip(pairs.network, pairs.reaction, strict=True)
    analogues = np.asarray([known.features(drafts[n], r) for n, r in where]).reshape(-1, NUM_ANALOGUE_FEATURES)
    return np.column_stack([*features, _closeness(reactants, drafts, pairs), analogues])


def training_features(universe: Universe, drafts: np.ndarray, train: Pairs) -> np.ndarray:
    """``network_features`` of each pair in the drafts that made it a candidate (``training_candidates`` of seed 0):
    without its reaction, and without a tenth of all others."""
    features = np.zeros((len(train.reaction), _NETWORK_FEATURES))
    for part in foldings(universe, np.flatnonzero(drafts.any(0)), seed=0):
        of_part = np.flatnonzero(np.isin(train.reaction, part))
        pairs = Pairs(*(x[of_part] for x in train))
        features[of_part] = network_features(universe, without(drafts, part), pairs)
    return features


def _frequency(universe: Universe, drafts: np.ndarray, train: Pairs, test: Pairs) -> np.ndarray:
    """log(1 + drafts that hold the reaction), 0 if it is held out, plus the mean over its compounds of log(1 + uses),
    where each reaction of each draft is a use."""
    reactants = _incidences(universe)[0]
    holders = drafts.sum(axis=0)
    mean_log_uses = np.log1p(reactants @ holders) @ reactants / np.diff(reactants.indptr)
    return (np.log1p(holders) + mean_log_uses)[test.reaction]


def _common_neighbours(universe: Universe, drafts: np.ndarray, train: Pairs, test: Pairs) -> np.ndarray:
    return _closeness(_incidences(universe)[0], drafts, test)


def _formula_regression(universe: Universe, drafts: np.ndarray, train: Pairs, test: Pairs) -> np.ndarray:
    """Logistic regression, with the penalty that predicts reactions left out best."""
    features = formula_features(universe)
    model = make_pipeline(
        StandardScaler(),
        LogisticRegressionCV(
            Cs=_INVERSE_PENALTIES,
            l1_ratios=(0.0,),
            use_legacy_attributes=False,
            cv=_folds(universe, train),
            scoring="neg_log_loss",
            max_iter=1000,
        ),
    )
    return model.fit(features[train.reaction], train.label).predict_proba(features[test.reaction])[:, 1]


def _network_regression(universe: Universe, drafts: np.ndarray, train: Pairs, test: Pairs) -> np.ndarray:
    """Boosted trees, as many as predict reactions left out best."""
    formulas = formula_features(universe)
    features = np.concatenate([formulas[train.reaction], training_features(universe, drafts, train)], axis=1)
    losses = np.zeros(_MAX_TREES)
    for rest, left_out in _folds(universe, train):
        model = _trees(_MAX_TREES).fit(features[rest], train.label[rest])
        stages = model.staged_predict_proba(features[left_out])
        losses += [log_loss(train.label[left_out], p, labels=[False, True]) for p in stages]
    model = _trees(int(np.argmin(losses)) + 1).fit(features, train.label)
    candidates = np.concatenate([formulas[test.reaction], network_features(universe, drafts, test)], axis=1)
    return model.predict_proba(candidates)[:, 1]


def _trees(number: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        max_iter=number,
        learning_rate=0.1,
        max_leaf_nodes=31,
        min_samples_leaf=50,
        early_stopping=False,
        random_state=0,
    )


def _folds(universe: Universe, train: Pairs) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions of the rest and of those left out; a reaction is left out of all networks at once."""
    return list(GroupKFold(_FOLDS).split(train.label, groups=same_compounds(universe, train.reaction)))


def _closeness(reactants: scipy.sparse.csc_array, drafts: np.ndarray, pairs: Pairs) -> np.ndarray:
    """``[p]``, the mean over pairs of the candidate's compounds of what Adamic and Adar give them: the sum of 1 /
    log(degree) over the compounds that both share a reaction with. 0 for a single compound."""
    scores = np.zeros(len(pairs.network))
    for n in np.unique(pairs.network):
        of_network = np.flatnonzero(pairs.network == n)
        draft = reactants[:, np.flatnonzero(drafts[n])]
        adjacency = ((draft @ draft.T) > 0).astype(np.int32).tocoo()
        apart = adjacency.row != adjacency.col
        shape = adjacency.shape
        adjacency = scipy.sparse.csr_array((adjacency.data[apart], (adjacency.row[apart], adjacency.col[apart])), shape)
        weight = 1 / np.log(np.maximum(adjacency.sum(axis=1), 2))
        candidates = reactants[:, pairs.reaction[of_network]]
        # The square of a sum over compounds counts each pair twice, and each compound with itself.
        with_itself = (adjacency @ weight) @ candidates
        total = weight @ (adjacency @ candidates).power(2) - with_itself
        size = np.diff(candidates.indptr)
        scores[of_network] = total / np.maximum(size * (size - 1), 1)
    return scores


def _incidences(universe: Universe) -> tuple[scipy.sparse.csc_array, ...]:
    """``[compound, reaction]`` 0 or 1: what takes part, what is made and what is used, both where reversible; and
    ``[place, reaction]`` what takes part where a compound in another compartment is another one."""
    compound, reaction, made, reversible = np.transpose(
        [(t.compound, r, t.coefficient > 0, x.reversible) for r, x in enumerate(universe.reactions) for t in x.terms]
    )
    shape, either = (len(universe.compounds), len(universe.reactions)), reversible.astype(bool)

    def incidence(which):
        columns, rows = np.unique([reaction[which], compound[which]], axis=1)
        return scipy.sparse.csc_array((np.ones(len(rows), np.int32), (rows, columns)), shape)

    made_and_used = incidence((made == 1) | either), incidence((made == 0) | either)
    return participation(universe).tocsc(), *made_and_used, placement(universe).tocsc()


BASELINES: dict[str, Callable[[Universe, np.ndarray, Pairs, Pairs], np.ndarray]] = {
    "frequency": _frequency,
    "common_neighbours": _common_neighbours,
    "formula_regression": _formula_regression,
    "network_regression": _network_regression,
}
