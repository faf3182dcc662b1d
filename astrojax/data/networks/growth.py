"""Which of some reactions a model needs for its objective to reach a rate: gap filling by flux balance.

The flux through what may be added is minimised, each unit at the price of its reaction (linear, as Latendresse 2014 and
gapseq do it; Zimmermann et al. 2021), under the model's own bounds, medium and objective. What still carries flux is
then tried without each of its reactions, the dearest first, so that in the end all are needed. Where it is too little,
because some carry less flux than the solver can tell from none, as what makes a vitamin does, a higher rate is asked
for first; where that does not help, all that may be added is tried, what carries flux last.

cobrapy reads the model and solves. Its solver ends the process that asks it of some models, so it gets one of its own:
``python -m astrojax.data.networks.growth MODEL RATE`` with prices as JSON on its input.
"""

import bisect
import importlib.util
import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from astrojax.errors import RequestError, RunError

# Flux below this is the solver's rounding, and so is this share of a rate.
_FLUX, _SLACK = 1e-9, 1e-6


class OutOfReach(RunError):
    """The objective does not reach a rate, whatever is added."""


def check_installed() -> None:
    """Raises RequestError where there is no cobrapy."""
    if importlib.util.find_spec("cobra") is None:
        raise RequestError("growth needs cobrapy: pip install -e '.[growth]'")


def find_needed(model: Path, prices: Mapping[str, float], rate: float) -> list[str]:
    """The cheapest of a model's own reactions that its objective does not reach a rate without.

    Args:
        model: SBML with all that may be added in it.
        prices: of the reactions that may be left out, above 0, by their ids in the file.
        rate: of the objective, h-1 where it is growth.

    Raises:
        OutOfReach: the objective does not reach the rate.
        RunError: the model cannot be solved.
    """
    command = [sys.executable, "-m", __name__, str(model), repr(rate)]
    done = subprocess.run(command, input=json.dumps(dict(prices)), capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RunError(f"cobrapy cannot solve the model: {said[-1] if said else f'exit code {done.returncode}'}")
    most, needed = json.loads(done.stdout.splitlines()[-1])
    if needed is None:
        raise OutOfReach(f"with all {len(prices):,} candidates the objective reaches {most:.4g}, not {rate:g}")
    return needed


def _solve(path: str, rate: float, prices: dict[str, float]) -> tuple[float, list[str] | None]:
    """The most that the objective reaches, and what it needs; None where it does not reach the rate."""
    import cobra

    logging.getLogger("cobra").setLevel(logging.CRITICAL)
    model = cobra.io.read_sbml_model(path, f_replace={})  # With the file's own identifiers.
    if not model.objective.expression:
        raise SystemExit("it states no objective")
    price_of = {model.reactions.get_by_id(name): price for name, price in prices.items()}

    def growth(without=()) -> float:
        with model:
            for reaction in without:
                reaction.bounds = 0.0, 0.0
            value = model.slim_optimize(error_value=0.0)
        return value if value == value else 0.0

    most = growth()
    if most < rate:
        return most, None

    def unused_at(rate: float) -> set:
        """What the cheapest solution at a rate carries no flux through."""
        with model:
            model.add_cons_vars(model.problem.Constraint(model.objective.expression, lb=rate, name="rate"))
            model.objective = model.problem.Objective(0, direction="min")
            prices_of_fluxes = {
                variable: price
                for reaction, price in price_of.items()
                for variable in (reaction.forward_variable, reaction.reverse_variable)
            }
            model.objective.set_linear_coefficients(prices_of_fluxes)
            model.slim_optimize(error_value=None)
            return {reaction for reaction in price_of if abs(reaction.flux) <= _FLUX}

    enough, kept = rate * (1 - _SLACK), []
    unused = unused_at(rate)
    if growth(unused) < enough:
        unused = unused_at(max(rate, most / 2))
    left_out = set(unused) if growth(unused) >= enough else set()
    # Of one price in the order given, so that the same is found each time.
    rest = [reaction for reaction in price_of if reaction not in left_out]
    rest.sort(key=lambda reaction: (reaction not in unused, -price_of[reaction]))
    while rest:
        # How many go together, before one that has to stay.
        count = bisect.bisect_left(
            range(1, len(rest) + 1), True, key=lambda count: growth({*left_out, *rest[:count]}) < enough
        )
        left_out.update(rest[:count])
        kept, rest = [*kept, *rest[count : count + 1]], rest[count + 1 :]
    name_of = dict(zip(price_of, prices, strict=True))
    return most, [name_of[reaction] for reaction in kept]


if __name__ == "__main__":
    print(json.dumps(_solve(sys.argv[1], float(sys.argv[2]), json.load(sys.stdin))))
