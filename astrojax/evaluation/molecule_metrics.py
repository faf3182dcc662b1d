"""How good generated molecules are: whether they are any, whether they are new, and how like known ones.

Molecules are canonical SMILES, as :func:`astrojax.data.molecules.to_smiles` writes them, of which two are the same
molecule where the texts are equal. None is a graph that is no molecule.
"""

import math
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np
import scipy.stats

from astrojax.chemistry.valence import rdkit_chem

_ELEMENTS = ("C", "N", "O", "F")
_PAIRS = 20_000
_FINGERPRINT_RADIUS, _FINGERPRINT_BITS = 2, 2048


class Published(NamedTuple):
    """What a paper says of its own model on QM9, per cent; None where it does not say."""

    valid: float
    unique: float
    novel: float | None
    source: str


# The papers' own figures, none of them rerun here. Novel are so many of the distinct molecules, in MolGAN of all valid
# ones.
PUBLISHED: dict[str, Published] = {
    "GraphVAE": Published(55.7, 76.0, 61.6, "Simonovsky and Komodakis 2018, arXiv 1802.03480"),
    "MolGAN": Published(98.1, 10.4, 94.2, "De Cao and Kipf 2018, arXiv 1805.11973"),
    "CGVAE": Published(100.0, 98.6, 94.3, "Liu et al. 2018, arXiv 1805.09076"),
    "DiGress": Published(99.0, 96.2, None, "Vignac et al. 2023, arXiv 2209.14734"),
    "DeFoG": Published(99.3, 96.3, None, "Qin et al. 2024, arXiv 2410.04263"),
}


def quality(generated: Sequence[str | None], training: Set[str]) -> dict[str, float]:
    """``validity``, ``uniqueness`` and ``novelty``; NaN where a share is of nothing.

    Args:
        generated: molecules.
        training: those the model was trained on.
    """
    valid = [smiles for smiles in generated if smiles is not None]
    unique = set(valid)
    return {
        "validity": _share(len(valid), len(generated)),
        "uniqueness": _share(len(unique), len(valid)),
        "novelty": _share(len(unique - training), len(unique)),
    }


def properties(smiles: Sequence[str | None]) -> dict[str, np.ndarray]:
    """Properties of the ``n`` valid molecules by RDKit, ``[n]`` each, repeated ones each time. Takes 2 ms a molecule.

    ``molecular_weight`` (g/mol); ``logp``, the logarithm of the octanol-water partition coefficient by Crippen's
    method; ``qed``, quantitative estimate of drug-likeness (Bickerton et al. 2012), 0 to 1; ``tpsa``, topological polar
    surface area (square angstrom); ``rings`` and ``heavy_atoms``; and the numbers of ``C``, ``N``, ``O`` and ``F``.
    """
    molecules = _molecules(smiles)
    from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors

    compute = {
        "molecular_weight": Descriptors.MolWt,
        "logp": Crippen.MolLogP,
        "qed": QED.qed,
        "tpsa": rdMolDescriptors.CalcTPSA,
        "rings": rdMolDescriptors.CalcNumRings,
        "heavy_atoms": lambda molecule: molecule.GetNumHeavyAtoms(),
    }
    symbols = [[atom.GetSymbol() for atom in molecule.GetAtoms()] for molecule in molecules]
    values = {name: [of(molecule) for molecule in molecules] for name, of in compute.items()}
    values |= {symbol: [held.count(symbol) for held in symbols] for symbol in _ELEMENTS}
    return {name: np.asarray(column, np.float64) for name, column in values.items()}


def property_distances(generated: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray]) -> dict[str, float]:
    """1-Wasserstein distance between the distributions of each property, in standard deviations of the training set.

    A shift by one of them is 1. NaN where nothing was generated. Where the training set is all alike it is infinite, or
    0 where everything generated is the same.

    Args:
        generated: what ``properties`` says of the generated molecules.
        training: likewise.
    """
    distances = {}
    for name, known in training.items():
        if not len(generated[name]):
            distances[name] = math.nan
            continue
        distance, std = scipy.stats.wasserstein_distance(generated[name], known), float(np.std(known))
        distances[name] = float(distance) / std if std > 0 else (math.inf if distance > 0 else 0.0)
    return distances


def internal_diversity(smiles: Sequence[str | None]) -> float:
    """1 - the mean Tanimoto similarity of Morgan fingerprints (radius 2, 2048 bits) of two valid molecules, over 20,000
    pairs drawn by chance (Benhenda 2017, arXiv 1708.08227). NaN for fewer than two."""
    molecules = _molecules(smiles)
    from rdkit.Chem import rdFingerprintGenerator
    from rdkit.DataStructs import TanimotoSimilarity

    if len(molecules) < 2:
        return math.nan
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=_FINGERPRINT_RADIUS, fpSize=_FINGERPRINT_BITS)
    rng = np.random.default_rng(0)
    first = rng.integers(len(molecules), size=_PAIRS)
    second = (first + rng.integers(1, len(molecules), size=_PAIRS)) % len(molecules)  # Another one.
    drawn = {i: generator.GetFingerprint(molecules[i]) for i in np.unique([first, second]).tolist()}
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    return 1 - float(np.mean([TanimotoSimilarity(drawn[i], drawn[j]) for i, j in pairs]))


def _molecules(smiles: Sequence[str | None]) -> list:
    """RDKit's; what of it is needed is imported after this, which says so where it is missing."""
    Chem = rdkit_chem()
    return [Chem.MolFromSmiles(text) for text in smiles if text is not None]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
