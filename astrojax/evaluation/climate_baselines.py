"""What a climate emulator has to beat: five predictors fitted on the same training climates.

Four of them know a planet by its parameters alone. Each predicts a field as a weighted mean of the training fields
whose weights, summing to 1, depend on the parameters: 1/n each (``mean``), those of the nearest neighbours
(``nearest_neighbours``), or those to which ridge regression (``pca_ridge``) and a Gaussian process (``pca_gp``) of
principal components come down. Their squared errors on planets left out then follow from the inner products of the
training fields, and a choice among hundreds of settings takes a second. The fifth, ``boosting``, predicts each cell
from the boundary maps there, and the planet's parameters.

Every setting is chosen on training planets left out together with all their epochs: two epochs of a planet are so much
alike that to leave one out would reward remembering.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.linalg
import scipy.optimize
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, Kernel, WhiteKernel

from astrojax.evaluation.climate_metrics import Climates

# Each training planet is left out in turn up to this number of planets; beyond it several are left out together.
_MAX_FOLDS = 20

_NEIGHBOURS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
_DISTANCE_POWERS = (0, 1, 2)
_RIDGE_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_RIDGE_COMPONENTS = (3, 6, 10, 50)

_GP_COMPONENTS = 12
_GP_CLIMATES = 300  # Fitting the kernel takes time with the cube of the climates it is fitted on.

_BOOSTING_CELLS = 150_000
_BOOSTING_FOLDS = 3
_BOOSTING_ITERATIONS = 150


def fit_and_predict(name: str, train: Climates, test: Climates, variables: Sequence[str]) -> dict[str, np.ndarray]:
    """Fits a baseline on ``train`` and predicts the climates of ``test``, of which it reads no field.

    Args:
        name: one of ``BASELINES``.
        train: climates of two or more planets.
        test: climates with the same parameters, boundary maps and grid.
        variables: names of fields of ``train``.

    Returns:
        ``[n, ct, lev, lat, lon]`` of each variable, float32.

    Raises:
        ValueError: no such baseline or field, other inputs in ``test``, or a single training planet.
    """
    if name not in BASELINES:
        raise ValueError(f"{name=} should be one of {', '.join(BASELINES)}")
    for what in ("parameter_names", "boundary_names"):
        if getattr(train, what) != getattr(test, what):
            raise ValueError(f"{what} differ: {getattr(train, what)} in training, {getattr(test, what)} in test")
    if missing := [v for v in variables if v not in train.fields]:
        raise ValueError(f"{', '.join(missing)}: not a field of the training climates")
    if len(set(train.planets)) < 2:
        raise ValueError(f"planets={sorted(set(train.planets))}: settings are chosen between two planets or more")
    return {variable: BASELINES[name](train, test, variable) for variable in variables}


def _mean(train: Climates, test: Climates, variable: str) -> np.ndarray:
    field = _filled(train.fields[variable])
    return np.repeat(field.mean(axis=0, keepdims=True), len(test.planets), axis=0)


def _nearest_neighbours(train: Climates, test: Climates, variable: str) -> np.ndarray:
    """The mean of the ``k`` nearest in standardised parameters, with weights of a power of the inverse distance."""
    return _weighted(_neighbour_weights, train, test, variable)


def _pca_ridge(train: Climates, test: Climates, variable: str) -> np.ndarray:
    """Ridge regression of the leading principal components on the parameters, or on these and their products."""
    return _weighted(_ridge_weights, train, test, variable)


def _weighted(weights: Callable, train: Climates, test: Climates, variable: str) -> np.ndarray:
    """Weighted means of the training fields, with the setting that has the least error on planets left out.

    ``weights(seen_rp, unseen_tp, gram_rr)`` yields ``[t, r]`` for one setting after the other.
    """
    field = _filled(train.fields[variable])
    gram = _gram(field, train)
    errors = 0.0
    for rest, left_out in _folds(train.planets, _MAX_FOLDS):
        seen, unseen = _standardised(train.parameters[rest], train.parameters[left_out])
        gram_rr, gram_tr = gram[np.ix_(rest, rest)], gram[np.ix_(left_out, rest)]
        # The trace of (w X_r - X_t) (w X_r - X_t)', less what all settings share.
        errors = errors + np.asarray([np.sum((w @ gram_rr - 2 * gram_tr) * w) for w in weights(seen, unseen, gram_rr)])
    best = int(np.argmin(errors))
    seen, unseen = _standardised(train.parameters, test.parameters)
    return _combine(next(itertools.islice(weights(seen, unseen, gram), best, None)), field)


def _neighbour_weights(seen_rp, unseen_tp, gram_rr) -> Iterator[np.ndarray]:
    distance_tr = np.sqrt(np.sum((unseen_tp[:, None] - seen_rp) ** 2, axis=-1))
    order = np.argsort(distance_tr, axis=1, kind="stable")
    for k, power in itertools.product(_NEIGHBOURS, _DISTANCE_POWERS):
        nearest = order[:, :k]
        closeness = (np.take_along_axis(distance_tr, nearest, 1) + 1e-6) ** -float(power)
        w = np.zeros_like(distance_tr)
        np.put_along_axis(w, nearest, closeness / closeness.sum(axis=1, keepdims=True), 1)
        yield w


def _ridge_weights(seen_rp, unseen_tp, gram_rr) -> Iterator[np.ndarray]:
    basis_rk = _components(gram_rr, max(_RIDGE_COMPONENTS))
    i, j = np.triu_indices(seen_rp.shape[1])
    products = _standardised(*(np.concatenate([x, x[:, i] * x[:, j]], axis=1) for x in (seen_rp, unseen_tp)))
    for seen, unseen in ((seen_rp, unseen_tp), products):
        squares, vectors = np.linalg.eigh(seen @ seen.T)
        across_tr = unseen @ seen.T @ vectors
        for penalty in _RIDGE_PENALTIES:
            scores_tk = across_tr / (squares + penalty * len(seen)) @ (vectors.T @ basis_rk)
            for k in _RIDGE_COMPONENTS:
                yield _of_components(scores_tk[:, :k], basis_rk[:, :k])


def _pca_gp(train: Climates, test: Climates, variable: str) -> np.ndarray:
    """A Gaussian process of the leading principal components, which share one kernel.

    The kernel is a squared exponential with a length for each parameter, plus a linear trend, plus noise. What it is
    asked to do is to predict unseen planets, and maximum likelihood does that badly on few planets with several epochs
    each; so its hyperparameters minimise the error on planets left out, for which there is a closed form (Rasmussen
    and Williams 2006, eq. 5.12, for blocks in place of points), under weak log-normal priors. A component that is
    predicted worse than by its mean is left at the mean.
    """
    field = _filled(train.fields[variable])
    seen, unseen = _standardised(train.parameters, test.parameters)
    gram = _gram(field, train)
    basis_nk = _components(gram, _GP_COMPONENTS)
    scores_nk = basis_nk * np.sqrt(np.sum(basis_nk * (gram @ basis_nk), axis=0))
    some = np.unique(np.linspace(0, len(seen) - 1, _GP_CLIMATES).round().astype(int))
    folds = [left_out for _, left_out in _folds([train.planets[i] for i in some], _MAX_FOLDS)]
    kernel, residuals_nk = _fit_kernel(seen[some], scores_nk[some], folds)
    hat_tn = scipy.linalg.solve(kernel(seen), kernel(seen, unseen), assume_a="pos").T
    better = np.sum(residuals_nk**2, axis=0) < np.sum(scores_nk[some] ** 2, axis=0)
    basis_nk = basis_nk[:, better]
    return _combine(_of_components(hat_tn @ basis_nk, basis_nk), field)


def _fit_kernel(inputs_np, scores_nk, folds: list[np.ndarray]) -> tuple[Kernel, np.ndarray]:
    """The kernel that predicts the scores of each fold best from the others, and what it then misses, ``[n, k]``."""
    num_parameters = inputs_np.shape[1]
    linear = ConstantKernel(1.0, (1e-3, 1e2)) * DotProduct(0.0, sigma_0_bounds="fixed")
    kernel = RBF(np.ones(num_parameters), (0.2, 100.0)) + linear + WhiteKernel(1.0, (1e-3, 10.0))
    # Natural logarithms, in the order of `kernel.theta`. Standardised parameters span 2 to 4: a length of 5 is nearly a
    # straight line over that span.
    centre = np.log([5.0] * num_parameters + [0.4, 0.05])
    spread = np.asarray([1.0] * num_parameters + [1.5, 1.5])

    def objective(theta):
        covariance_nn, gradient_nnh = kernel.clone_with_theta(theta)(inputs_np, eval_gradient=True)
        residuals_nk, by_covariance_nn = _left_out_residuals(covariance_nn, scores_nk, folds)
        error = np.sum(residuals_nk**2)
        size = len(inputs_np) / 2
        gradient = size / error * np.einsum("nm,nmh->h", by_covariance_nn, gradient_nnh)
        away = (theta - centre) / spread
        return size * np.log(error) + np.sum(away**2) / 2, gradient + away / spread

    fits = [
        scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", bounds=kernel.bounds)
        for start in (centre, np.concatenate([centre[:num_parameters] - 1, centre[num_parameters:]]))
    ]
    kernel = kernel.clone_with_theta(min(fits, key=lambda fit: fit.fun).x)
    return kernel, _left_out_residuals(kernel(inputs_np), scores_nk, folds)[0]


def _left_out_residuals(covariance_nn, scores_nk, folds: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Scores less their prediction from the other folds, and the gradient of the sum of squares by the covariance.

    With Q the inverse covariance, a fold B misses Q_BB^-1 (Q y)_B.
    """
    inverse = np.linalg.inv(covariance_nn)
    alpha_nk = inverse @ scores_nk
    residuals_nk, adjoint_nk = np.empty_like(alpha_nk), np.empty_like(alpha_nk)
    outer_nn = np.zeros_like(inverse)
    for fold in folds:
        block = inverse[np.ix_(fold, fold)]
        residuals_nk[fold] = np.linalg.solve(block, alpha_nk[fold])
        adjoint_nk[fold] = 2 * np.linalg.solve(block, residuals_nk[fold])
        outer_nn[np.ix_(fold, fold)] = adjoint_nk[fold] @ residuals_nk[fold].T
    return residuals_nk, inverse @ outer_nn @ inverse - inverse @ adjoint_nk @ alpha_nk.T


def _boosting(train: Climates, test: Climates, variable: str) -> np.ndarray:
    """Boosted trees from what is known at a cell to the value there; the number of trees is chosen on planets left out.

    Trained on cells drawn evenly from all climates and within each, weighted by area.
    """
    num_trees = _choose_num_trees(train, variable)
    features, values, weights = _cells(train, variable, _BOOSTING_CELLS)
    model = _trees(num_trees).fit(features, values, sample_weight=weights)
    shape = train.fields[variable].shape[1:]
    everywhere = np.unravel_index(np.arange(np.prod(shape)), shape)
    rows = [model.predict(_features(test, i, everywhere, shape)).reshape(shape) for i in range(len(test.planets))]
    return np.asarray(rows, np.float32)


def _choose_num_trees(train: Climates, variable: str) -> int:
    errors = np.zeros(_BOOSTING_ITERATIONS)
    for rest, left_out in _folds(train.planets, _BOOSTING_FOLDS):
        features, values, weights = _cells(train.select(rest), variable, _BOOSTING_CELLS // 3)
        model = _trees(_BOOSTING_ITERATIONS).fit(features, values, sample_weight=weights)
        features, values, weights = _cells(train.select(left_out), variable, _BOOSTING_CELLS // 6)
        errors += [np.sum(weights * (p - values) ** 2) for p in model.staged_predict(features)]
    return int(np.argmin(errors)) + 1


def _trees(num_trees: int) -> HistGradientBoostingRegressor:
    # A third of the features at each split: the planet's parameters would otherwise name the training planets.
    return HistGradientBoostingRegressor(
        max_iter=num_trees,
        learning_rate=0.1,
        max_leaf_nodes=31,
        min_samples_leaf=100,
        max_features=0.3,
        early_stopping=False,
        random_state=0,
    )


def _cells(climates: Climates, variable: str, num_cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features ``[cells, f]``, values and areas of about ``num_cells`` cells that hold a value."""
    field = climates.fields[variable]
    shape, size = field.shape[1:], field[0].size
    rng = np.random.default_rng(0)
    drawn = min(-(-num_cells // len(field)), size)
    areas = climates.grid.areas
    parts = []
    for i, values in enumerate(field):
        flat = np.floor((np.arange(drawn) + rng.random(drawn)) * (size / drawn)).astype(int)
        cells = np.unravel_index(flat[np.isfinite(values.reshape(-1)[flat])], shape)
        parts.append((_features(climates, i, cells, shape), values[cells], areas[cells[2:]]))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _features(climates: Climates, i: int, cells: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> np.ndarray:
    """What is known of ``cells`` (month, level, latitude and longitude) of climate ``i``, ``[cells, f]``."""
    month, lev, lat, lon = cells
    known = [
        climates.boundary[i].transpose(0, 2, 3, 1)[month, lat, lon],
        np.broadcast_to(climates.parameters[i], (len(month), climates.parameters.shape[1])),
        np.sin(np.deg2rad(climates.grid.lat))[lat, None],
    ]
    if shape[1] > 1:
        known.append(climates.lev[lev, None])
    return np.concatenate(known, axis=1, dtype=np.float32)


def _filled(field: np.ndarray) -> np.ndarray:
    """``[n, ct, lev, lat, lon]`` with the mean over the climates, or else over the level, where there is no value."""
    present = np.isfinite(field)
    if present.all():
        return field
    count = present.sum(axis=0)
    total = np.where(present, field, 0).sum(axis=0, dtype=np.float64)
    of_level = total.sum(axis=(0, 2, 3), keepdims=True) / np.maximum(count.sum(axis=(0, 2, 3), keepdims=True), 1)
    mean = np.where(count > 0, total / np.maximum(count, 1), of_level)
    return np.where(present, field, mean).astype(field.dtype)


def _gram(field: np.ndarray, climates: Climates) -> np.ndarray:
    """``[n, n]``, area-weighted inner products of anomalies over months, levels and cells."""
    anomalies = (field - field.mean(axis=0)) * np.sqrt(climates.grid.areas)
    flat = anomalies.reshape(len(field), -1)  # float64, as the areas are.
    return flat @ flat.T


def _components(gram_nn: np.ndarray, number: int) -> np.ndarray:
    """``[n, k]``, orthonormal: the leading principal components' values at each climate, each divided by its norm."""
    centred = gram_nn - gram_nn.mean(axis=0) - gram_nn.mean(axis=1, keepdims=True) + gram_nn.mean()
    _, vectors = np.linalg.eigh(centred)
    return vectors[:, ::-1][:, : min(number, len(gram_nn) - 1)]


def _of_components(scores_tk: np.ndarray, basis_nk: np.ndarray) -> np.ndarray:
    """Weights of the training fields ``[t, n]`` of which the mean has the principal components ``scores_tk``."""
    w = scores_tk @ basis_nk.T
    return w + (1 - w.sum(axis=1, keepdims=True)) / w.shape[1]


def _combine(weights_tn: np.ndarray, field: np.ndarray) -> np.ndarray:
    return np.tensordot(weights_tn.astype(field.dtype), field, 1).astype(np.float32)


def _standardised(seen: np.ndarray, unseen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with mean 0 and standard deviation 1 in ``seen``, without what is constant there."""
    mean, std = seen.mean(axis=0), seen.std(axis=0)
    varies = std > 1e-9 * (1 + np.abs(mean))
    return tuple((x[:, varies] - mean[varies]) / std[varies] for x in (seen, unseen))


def _folds(planets: Sequence[str], most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of the rest and of those left out, planet by planet or in at most ``most`` groups of planets."""
    number = {planet: i for i, planet in enumerate(dict.fromkeys(planets))}
    fold = np.asarray([number[planet] for planet in planets]) % most
    for k in range(min(most, len(number))):
        yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)


BASELINES: dict[str, Callable[[Climates, Climates, str], np.ndarray]] = {
    "mean": _mean,
    "nearest_neighbours": _nearest_neighbours,
    "pca_ridge": _pca_ridge,
    "pca_gp": _pca_gp,
    "boosting": _boosting,
}
