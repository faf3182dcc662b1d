"""The climate task: a 5-D CNN-ViT that emulates, forecasts or completes climates, judged on planets never seen."""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import grain
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike

from astrojax.config import Config, NonNegative, NonNegativeFloat, Positive
from astrojax.console import say
from astrojax.data import boundary, cubes
from astrojax.data.cubes import statistics
from astrojax.data.thousand_worlds import convert_thousand_worlds
from astrojax.data.worlds import beyond, make_worlds
from astrojax.errors import RequestError
from astrojax.evaluation import climate as evaluation
from astrojax.models.climate_fields import Scale, physical_fields
from astrojax.models.cube_vit import (
    Block,
    Channels,
    Coordinates,
    CubeViT,
    CubeViTConfig,
    Inputs,
    Tokens,
    check_cube,
    check_mesh,
)
from astrojax.parallel.mesh import UNIT_MESH
from astrojax.parallel.sharding import BATCH, abstract_batch, filling, own_rows, put_batch
from astrojax.physics.constraints import DryMass, EnergyBalance, WaterNonNegativity, energy_imbalance
from astrojax.physics.grid import layer_mass, regular
from astrojax.tasks import climate_samples as samples
from astrojax.tasks.climate_samples import AugmentConfig
from astrojax.train.ensemble import first_member, init_members, loss_of_members, of_members
from astrojax.train.task import Batch, LayerStack, Params, RunConfig

Objective = Literal["emulate", "forecast", "complete"]
Enforcement = Literal["none", "loss", "projection"]

# In a cube to be completed, this share of epochs and of variables is hidden from each sample in training.
_HIDDEN = 0.25


class CubeShape(Config):
    """How many cells a cube has along each axis."""

    climate_time: Positive = 12
    geological_time: Positive = 4
    lev: Positive = 10
    lat: Positive = 16
    lon: Positive = 32


class CubeConfig(Config):
    """Climates to learn from.

    Attributes:
        path: NetCDF files (a folder or a glob pattern), a store that ``python -m astrojax.data.cubes`` made, or the
            folder ``dataset`` of ThousandWorlds.
        eval_glob: NetCDF files of other planets to evaluate on, in the same conventions.
        grid: what files are regridded to: ``"source"``, ``"32x64"`` or ``"gaussian:32x64"``.
        shape: of a planet's cube.
        level_variables: what is predicted on levels.
        surface_variables: what is predicted at the surface.
        parameters: what the model is told of a planet, beside the boundary maps.
        num_train_planets: learn from so many training planets only, the first by the SHA-256 of their names; None: all.
        fold: which fifth of the planets is held out (:mod:`astrojax.data.cubes.splits`).
        subset: of ThousandWorlds.
        num_workers: processes that read ahead; 0 reads in threads.
    """

    path: str = "data/exoplasim"
    eval_glob: str | None = None
    grid: str = "source"
    shape: CubeShape = CubeShape()
    level_variables: tuple[str, ...] = ("ta", "hus", "ua", "va", "cl")
    surface_variables: tuple[str, ...] = ("ts", "ps", "pr", "sic", "albs", "rst", "rlut")
    parameters: tuple[str, ...] = (
        "instellation",
        "stellar_temperature",
        "rotation_period",
        "tidally_locked",
        "obliquity",
        "radius",
        "gravity",
        "pN2",
        "pCO2",
        "epoch_age",
        "land_area_fraction",
    )
    num_train_planets: Positive | None = None
    fold: Annotated[int, msgspec.Meta(ge=0, le=4)] = 2
    subset: Literal["single-complete", "multi-complete", "multi-partial"] = "multi-partial"
    num_workers: NonNegative = 0

    @property
    def variables(self) -> tuple[str, ...]:
        return self.level_variables + self.surface_variables


class ConstraintConfig(Config):
    """How conservation laws are enforced (:mod:`astrojax.physics.constraints`).

    Attributes:
        energy: ``"loss"``: the global mean of ``rst - rlut`` of each month is learnt as such; ``"projection"``: it is
            zero, for ensembles in balance.
        dry_mass: of the atmosphere, constant over the year.
        water: not negative.
        weight: of the losses, over that of the fields.
    """

    energy: Enforcement = "loss"
    dry_mass: Enforcement = "projection"
    water: Enforcement = "projection"
    weight: NonNegativeFloat = 0.05


class ClimateConfig(RunConfig, kw_only=True, tag="climate"):
    """A run of the climate task.

    Attributes:
        objective: ``"emulate"``: planet parameters and boundary maps to a cube; ``"forecast"``: its first months to
            the others; ``"complete"``: some of its epochs and variables to the others.
        observed_months: how many months a forecast knows.
        members: networks that are trained side by side from different initial weights; their predictions are averaged.
        model: the CNN-ViT.
        data: the cubes.
        augmentation: of training samples.
        constraints: what the prediction must conserve.
        eval_batch_size: planets predicted at a time, rounded up to fill the devices.
    """

    objective: Objective = "emulate"
    observed_months: Positive = 6
    members: Positive = 1
    model: CubeViTConfig
    data: CubeConfig = CubeConfig()
    augmentation: AugmentConfig = AugmentConfig()
    constraints: ConstraintConfig = ConstraintConfig()
    eval_batch_size: Positive = 2

    def __post_init__(self):
        year, months = self.data.shape.climate_time, self.augmentation.months
        if self.objective == "forecast" and self.observed_months >= year:
            raise ValueError(f"observed_months={self.observed_months} leaves nothing of {year} to forecast")
        if self.objective == "forecast" and months is not None and months < year:
            raise ValueError(f"augmentation.months={months} cuts off what is to be forecast; set it to none")
        for field, axis in (("months", "climate_time"), ("epochs", "geological_time")):
            crop, size = getattr(self.augmentation, field), getattr(self.data.shape, axis)
            patch = getattr(self.model.patch, axis)
            if crop is not None and (crop > size or crop % patch):
                raise ValueError(f"augmentation.{field}={crop} should be at most {size}, and a multiple of {patch}")
        if self.augmentation.mirror and year > 1 and year % 2:
            raise ValueError(
                f"augmentation.mirror={self.augmentation.mirror} needs an even number of months, not {year}"
            )


class ClimateTask:
    """See :class:`astrojax.train.task.Task`.

    Attributes:
        store: the cubes, once opened.
        boundary: the inputs of each of its planets, once opened.
        train_planets: the names of those that are learnt from.
    """

    unit = "planets"
    units_per_example = 1
    resumable_changes = ("data.eval_glob", "data.num_workers", "eval_batch_size", "model.remat", "model.scan_unroll")

    def __init__(self, config: ClimateConfig):
        self.config = config
        data, shape = config.data, config.data.shape
        try:
            check_cube(config.model, {field: getattr(shape, field) for field in shape.__struct_fields__})
        except ValueError as error:
            raise RequestError(str(error)) from error
        # Until a store is opened: sizes are all that planning needs.
        self._grid = regular(shape.lat, shape.lon)
        self._sigma_edges = np.linspace(0, 1, shape.lev + 1)
        self._lev = (self._sigma_edges[1:] + self._sigma_edges[:-1]) / 2
        self._month_edges = np.linspace(0, 1, shape.climate_time + 1)
        self._scales = {
            name: Scale(np.zeros(shape.lev if name in data.level_variables else 1), 1.0) for name in data.variables
        }
        self._standard = _no_standard(len(boundary.MAPS), len(data.parameters))
        self._groups = samples.augmented_groups(data.level_variables, data.surface_variables)
        with jax.sharding.use_abstract_mesh(UNIT_MESH):
            self.graphdef = nnx.graphdef(jax.eval_shape(lambda: self._new_model(jax.random.key(0))))
            block = nnx.graphdef(jax.eval_shape(lambda: Block(config.model, rngs=nnx.Rngs(params=jax.random.key(0)))))

        def embed(params, batch, key):
            batch = self._disturbed(batch)
            tokens = self.model(params).embed(self._inputs(batch), self._coordinates(batch))
            return tokens.x_btgsd, tokens.condition_bgc

        def layer(weights, x, batch):
            x_btgsd, condition_bgc = x
            batch = self._disturbed(batch)
            ages, present, coordinates = batch["ages"], batch["present"], self._coordinates(batch)
            return nnx.merge(block, weights)(x_btgsd, condition_bgc, ages, present, coordinates), condition_bgc

        def head(params, x, batch):
            # What the stem saw is computed again: kept between the passes it would outweigh the layers' inputs.
            batch = self._disturbed(batch)
            model, inputs, coordinates = self.model(params), self._inputs(batch), self._coordinates(batch)
            features = model.embed(inputs, coordinates).features_btgzyxc
            return self._loss(model.decoder(Tokens(*x, features), inputs, coordinates), batch)

        # An ensemble is small networks: no need to update them layer by layer.
        self.stack = (
            None
            if config.members > 1
            else LayerStack(
                layers="blocks",
                embed_params=("stem",),
                head_params=("stem", "decoder"),
                embed=embed,
                layer=layer,
                head=head,
            )
        )

    @property
    def coordinates(self) -> Coordinates:
        """Where the cells of a cube are."""
        months = (self._month_edges[1:] + self._month_edges[:-1]) / 2
        return Coordinates(months, self._lev, self._grid.lat, self._grid.lon)

    def _coordinates(self, batch: Batch) -> Coordinates:
        """Those of a batch's cubes, which may be parts of a year: only the distance of months matters."""
        months = batch["maps"].shape[2]
        return self.coordinates._replace(climate_time=self.coordinates.climate_time[:months])

    def prepare(self, workdir: Path) -> None:
        data = self.config.data
        if _is_store(data.path):
            return
        say(f"converting {data.path}")
        if (Path(data.path) / "inputs.csv").exists():
            convert_thousand_worlds(data.path, workdir / _STORE, data.subset)
            return
        cubes.convert([data.path], workdir / _STORE, cubes.Request(grid=data.grid, fold=data.fold))

    def open(self, workdir: Path) -> None:
        data = self.config.data
        self.store = cubes.CubeStore.open(data.path if _is_store(data.path) else workdir / _STORE)
        self._check_store()
        self.boundary = boundary.make_boundary(self.store, data.parameters)
        planets = sorted(self.store.split["train"], key=lambda name: hashlib.sha256(name.encode()).digest())
        self.train_planets = tuple(planets[: data.num_train_planets])
        if len(self.train_planets) < 2:
            raise RequestError(f"{data.path}: {len(self.train_planets)} planets to train on; at least 2 are needed")
        if not self.store.split["heldout"] and not data.eval_glob:
            raise RequestError(
                f"{data.path}: too few planets to hold one out; name others with --config.data.eval_glob"
            )
        self._grid, self._month_edges = self.store.grid, self.store.climate_time_edges
        self._lev, self._sigma_edges = self.store.lev, self.store.lev_edges
        self._standard = boundary.Standard.of(self.boundary, self.store.index(self.train_planets), self._grid)
        self._scales = {name: self._scale(name) for name in data.variables}

    def _scale(self, name: str) -> Scale:
        known = self.store.statistics[name]
        if self.config.data.num_train_planets:
            cube = self.store.read_variable(name)[self.store.index(self.train_planets)]
            known = statistics.summary(statistics.total(statistics.moments(planet, self._grid) for planet in cube))
        if not known["std"]:
            raise RequestError(f"{self.store.path}: {name} is the same everywhere in training: nothing to learn")
        return Scale(np.asarray(known["level_mean"]), known["std"])

    def init(self, key: jax.Array) -> Params:
        try:
            observed = self.config.objective != "emulate"
            check_mesh(self.config.model, dict(jax.sharding.get_abstract_mesh().shape), observed=observed)
        except ValueError as error:
            raise RequestError(str(error)) from error

        def member(key):
            return nnx.to_pure_dict(nnx.state(self._new_model(key)))

        return init_members(member, key, self.config.members)

    def model(self, params: Params) -> CubeViT:
        """The CNN-ViT with ``params`` in place; of an ensemble, its first member."""
        return nnx.merge(self.graphdef, first_member(params, self.config.members))

    def loss(self, params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        del key  # Each sample brings random words of its own, so that every portion of a batch draws the same.
        return self._undisturbed_loss(params, self._disturbed(batch))

    @functools.cached_property
    def _validation_step(self):
        return jax.jit(self._undisturbed_loss)

    def _undisturbed_loss(self, params: Params, batch: Batch):
        """Summed over planets and members."""

        def member_loss(member: Params):
            return self._loss(self._raw(member, batch), batch)

        return loss_of_members(member_loss, params, self.config.members)

    def _raw(self, member: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        return nnx.merge(self.graphdef, member)(self._inputs(batch), self._coordinates(batch))

    def abstract_batch(self, mesh: jax.sharding.Mesh) -> Batch:
        data, s = self.config.data, self.config.data.shape
        t, g, z, y, x = s.climate_time, s.geological_time, s.lev, s.lat, s.lon
        fields = {
            "levels": ((len(data.level_variables), t, g, z, y, x), np.float32),
            "surface": ((len(data.surface_variables), t, g, 1, y, x), np.float32),
            "maps": ((len(boundary.MAPS), t, g, 1, y, x), np.float32),
            "insolation": ((1, t, g, 1, y, x), np.float32),
            "parameters": ((g, len(data.parameters)), np.float32),
            "ages": ((g,), np.float32),
            "pressure": ((g,), np.float32),
            "present": ((g,), np.bool_),
            "rotating": ((), np.bool_),
            "seasons": ((), np.bool_),
            "words": ((2,), np.uint32),
        }
        return abstract_batch(fields, self.config.train.batch_size, mesh)

    def training_data(self) -> grain.IterDataset:
        batches = cubes.training_batches(
            self.store,
            self.train_planets,
            batch_size=self.config.train.batch_size,
            seed=self.config.train.seed,
            num_workers=self.config.data.num_workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return batches.seed(self.config.train.seed).random_map(self._with_words)

    def validate(self, params: Params, mesh: jax.sharding.Mesh) -> dict[str, float]:
        """The loss of the validation planets, undisturbed."""
        planets = self.store.split["validation"]
        if not planets:
            return {}
        total = weight = 0.0
        for batch in self._evaluation_batches(self.store, self.boundary, planets):
            for visible in self._views(batch, mesh):
                loss, count = self._validation_step(params, put_batch(batch, mesh) | visible)
                total, weight = total + float(loss), weight + float(count)
        return {"validation_loss": total / weight}

    def evaluate(self, params: Params, mesh: jax.sharding.Mesh, workdir: Path, step: int) -> dict[str, Any]:
        return evaluation.evaluate(self, params, mesh, workdir, step)

    def predict(
        self, params: Params, mesh: jax.sharding.Mesh, store: cubes.CubeStore, planets: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """The mean over the ensemble of what :meth:`predict_members` returns."""
        members = self.predict_members(params, mesh, store, planets)
        return {name: field.mean(axis=0) for name, field in members.items()}

    def boundary_of(self, store: cubes.CubeStore) -> boundary.Boundary:
        """What the model is told of a store's planets; made anew for another store than the task's own."""
        return self.boundary if store is self.store else boundary.make_boundary(store, self.config.data.parameters)

    def predict_members(
        self, params: Params, mesh: jax.sharding.Mesh, store: cubes.CubeStore, planets: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """Fields ``[member, planet, climate_time, geological_time, lev, lat, lon]`` in the store's units.

        Each is the mean of two predictions, for the planet and for its mirror image. A forecast is NaN in the months
        the model was shown.

        Args:
            params: the weights.
            mesh: where they live.
            store: cubes on the grid and levels the model was trained on.
            planets: names of those of its planets to predict.
        """
        batches = self._evaluation_batches(store, self.boundary_of(store), planets)
        return self._predict_members(params, mesh, batches, len(planets))

    def worlds(self, parameters: Mapping[str, ArrayLike], **maps: ArrayLike) -> boundary.Boundary:
        """What the model is told of planets that no file describes, for :meth:`emulate`.

        Says so where parameters lie beyond those of the planets it has learnt from.

        Args:
            parameters: all that the model reads (``config.data.parameters``); see
                :func:`astrojax.data.worlds.make_worlds`.
            maps: ``land_area_fraction`` and ``surface_altitude``, of an ocean planet unless given.

        Raises:
            RequestError: a parameter is missing, unknown, out of range or of another number of planets.
        """
        made = make_worlds(parameters, self._grid, self._month_edges, self.config.data.parameters, **maps)
        if names := beyond(made, self.boundary, self.store.index(self.train_planets)):
            say(f"warning: beyond the planets that the model has learnt from: {', '.join(names)}")
        return made

    def emulate(self, params: Params, mesh: jax.sharding.Mesh, worlds: boundary.Boundary) -> dict[str, np.ndarray]:
        """Climates of planets that no file describes: ``[planet, climate_time, epoch, lev, lat, lon]`` by variable.

        As :meth:`predict`, the mean over the ensemble, and over each planet and its mirror image.

        Args:
            params: the weights.
            mesh: where they live.
            worlds: made by :meth:`worlds`.

        Raises:
            RequestError: the model forecasts or completes climates, and needs to be shown some of each.
        """
        if self.config.objective != "emulate":
            raise RequestError(f"objective={self.config.objective} needs climates to begin from; emulate does not")
        num_planets = len(worlds.present)
        members = self._predict_members(params, mesh, self._world_batches(worlds), num_planets)
        return {name: field.mean(axis=0) for name, field in members.items()}

    @functools.cached_property
    def _prediction_step(self):
        @jax.jit
        def predict(params, batch, visible):
            def member(params):
                here, there = (
                    self._physical(self._raw(params, view), view)
                    for view in (batch | visible, samples.mirrored(batch, self._groups) | visible)
                )
                return {name: (field + samples.flipped(there[name], name)) / 2 for name, field in here.items()}

            fields, shown = of_members(member, params, self.config.members), self._visible(batch | visible)
            fields, shown = jax.tree.map(lambda x: jax.sharding.reshard(x, P()), (fields, shown))
            return {name: jnp.where(shown[name], jnp.nan, x) for name, x in fields.items()}

        return predict

    def _predict_members(self, params: Params, mesh: jax.sharding.Mesh, batches: Iterable, count: int):
        results: list[dict[str, np.ndarray]] = []
        for batch in batches:
            global_batch, fields = put_batch(batch, mesh), None
            for visible in self._views(batch, mesh):
                seen = {name: np.asarray(x) for name, x in self._prediction_step(params, global_batch, visible).items()}
                fields = fields or seen
                fields = {name: np.where(np.isnan(x), seen[name], x) for name, x in fields.items()}
            results.append(fields)
        return {n: np.concatenate([r[n] for r in results], axis=1)[:, :count] for n in results[0]}

    def _new_model(self, key: jax.Array) -> CubeViT:
        data = self.config.data
        num_fields = len(data.variables)
        channels = Channels(
            maps=len(boundary.MAPS),
            parameters=len(data.parameters),
            observed=0 if self.config.objective == "emulate" else 2 * num_fields,
            levels=len(data.level_variables),
            surface=len(data.surface_variables),
        )
        return CubeViT(self.config.model, channels, rngs=nnx.Rngs(params=key))

    def _check_store(self) -> None:
        data, store = self.config.data, self.store
        if store.level_kind != "sigma":
            raise RequestError(f"{data.path}: levels of {store.level_kind}, not sigma; convert with --levels sigma:...")
        fold = store.provenance["request"].get("fold", data.fold)
        if fold != data.fold:
            raise RequestError(f"{data.path}: converted with fold {fold}; say --config.data.fold={fold}")
        layout = store.layout.shape("levels")
        wanted = tuple(getattr(data.shape, field) for field in data.shape.__struct_fields__)
        if layout != wanted:
            raise RequestError(f"{data.path}: cubes of {layout}, but data.shape says {wanted}")
        for group, names in (("levels", data.level_variables), ("surface", data.surface_variables)):
            for name in names:
                if name not in store.variables.get(group, ()):
                    raise RequestError(f"{data.path}: no variable {name} among its {group}")

    def _batch(self, cube: dict[str, np.ndarray], store: cubes.CubeStore, inputs: boundary.Boundary) -> dict[str, Any]:
        """What the model reads of the planets of ``cube``, a batch of the store's feed."""
        data, planets = self.config.data, cube["planet"]
        levels = [store.variables["levels"].index(name) for name in data.level_variables]
        surface = [store.variables["surface"].index(name) for name in data.surface_variables]
        return {
            "levels": cube["levels"][:, levels],
            "surface": cube["surface"][:, surface],
            **_told(inputs, planets),
        }

    def _with_words(self, cube: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        batch = self._batch(cube, self.store, self.boundary)
        # Drawn for the whole batch, so that samples differ between processes and do not depend on their number.
        words = rng.integers(0, 2**32, (self.config.train.batch_size, 2), dtype=np.uint32)
        return batch | {"words": words[jax.process_index() :: jax.process_count()]}

    def _evaluation_batches(self, store: cubes.CubeStore, inputs: boundary.Boundary, planets: tuple[str, ...]):
        """This process's rows of batches that fill the devices; the last planet is repeated where they do not come out
        even."""
        portions = self._portions(len(planets))
        names = [planets[min(place, len(planets) - 1)] for places in portions for place in places]
        batches = cubes.evaluation_batches(store, names, batch_size=len(portions[0]))
        batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
        for places, cube in zip(portions, batches, strict=True):
            batch = self._batch(cube, store, inputs)
            words = np.stack([np.zeros(len(places), np.uint32), cube["planet"].astype(np.uint32)], axis=1)
            for row, place in enumerate(places):
                if place >= len(planets):  # Counts for nothing.
                    batch["levels"][row] = batch["surface"][row] = np.nan
            yield batch | {"words": words}

    def _world_batches(self, worlds: boundary.Boundary):
        """The same of planets of which no climate is known."""
        data, (num_planets, num_epochs) = self.config.data, worlds.present.shape
        t, z, y, x = (getattr(data.shape, axis) for axis in ("climate_time", "lev", "lat", "lon"))
        for places in self._portions(num_planets):
            planets, rows = [min(place, num_planets - 1) for place in places], len(places)
            yield {
                "levels": np.full((rows, len(data.level_variables), t, num_epochs, z, y, x), np.nan, np.float32),
                "surface": np.full((rows, len(data.surface_variables), t, num_epochs, 1, y, x), np.nan, np.float32),
                **_told(worlds, planets),
                "words": np.zeros((rows, 2), np.uint32),
            }

    def _portions(self, count: int) -> list[list[int]]:
        """This process's rows of batches that fill the devices, as places among ``count``; those beyond it fill up."""
        size = filling(self.config.eval_batch_size, jax.sharding.get_abstract_mesh())
        return [list(range(start, start + size))[own_rows(size)] for start in range(0, count, size)]

    def _disturbed(self, batch: Batch) -> Batch:
        return samples.disturbed(batch, self.config.augmentation, self._groups, self._standard.parameter_std)

    def _inputs(self, batch: Batch) -> Inputs:
        observed = None if self.config.objective == "emulate" else self._observed(batch)
        return Inputs(
            maps=self._standard.maps(batch["maps"]),
            parameters=self._standard.parameters(batch["parameters"]),
            ages=batch["ages"],
            present=batch["present"],
            observed=observed,
        )

    def _truth(self, batch: Batch) -> dict[str, jax.Array]:
        data = self.config.data
        groups = (("levels", data.level_variables), ("surface", data.surface_variables))
        return {name: batch[group][:, i] for group, names in groups for i, name in enumerate(names)}

    def _visible(self, batch: Batch) -> dict[str, jax.Array]:
        """Where the model is shown the truth: bool ``[b, t, g, 1, 1, 1]`` of each variable."""
        names = self.config.data.variables
        b, _, num_months, num_epochs = batch["maps"].shape[:4]
        if self.config.objective == "forecast":
            months = jnp.arange(num_months) < self.config.observed_months
            months = months[None, :, None, None, None, None]
            shown = [jnp.broadcast_to(months, (b, num_months, 1, 1, 1, 1), out_sharding=P(BATCH))] * len(names)
        elif self.config.objective == "emulate":
            shown = [jnp.zeros((b, 1, 1, 1, 1, 1), bool, out_sharding=P(BATCH))] * len(names)
        else:
            epochs_bg, variables_bv = batch.get("visible_epochs"), batch.get("visible_variables")
            if epochs_bg is None:
                hidden_keys = samples.keys(batch).hidden
                drawn = jax.vmap(lambda key: jax.random.uniform(key, (num_epochs + len(names),)))(hidden_keys)
                epochs_bg, variables_bv = jnp.split(drawn > _HIDDEN, [num_epochs], axis=1)
            shown = [(epochs_bg & variables_bv[:, i : i + 1])[:, None, :, None, None, None] for i in range(len(names))]
        return dict(zip(names, shown, strict=True))

    def _views(self, batch, mesh) -> list[dict[str, jax.Array]]:
        """What an evaluation hides: of a cube to be completed each epoch in turn."""
        if self.config.objective != "complete":
            return [{}]
        size, epochs = batch["ages"].shape
        variables = np.ones((size, len(self.config.data.variables)), bool)
        views = []
        for epoch in range(epochs):
            shown = np.broadcast_to(np.arange(epochs) != epoch, (size, epochs))
            views.append(put_batch({"visible_epochs": shown, "visible_variables": variables}, mesh))
        return views

    def _observed(self, batch: Batch) -> jax.Array:
        """Standardised fields where visible and zero elsewhere, and for each of them whether it is visible."""
        levels = self.config.data.shape.lev
        values, flags = [], []
        visible = self._visible(batch)
        for name, truth in self._truth(batch).items():
            scale = self._scales[name]
            shown = visible[name] & jnp.isfinite(truth)
            value = jnp.where(shown, (truth - scale.mean_zyx) / scale.std, 0.0)
            full = (*truth.shape[:3], levels, *truth.shape[4:])
            values.append(jnp.broadcast_to(value, full))
            flags.append(jnp.broadcast_to(shown.astype(jnp.float32), full))
        return jnp.stack(values + flags, axis=1)

    def _physical(self, raw: tuple[jax.Array, jax.Array], batch: Batch) -> dict[str, jax.Array]:
        """Fields in the store's units, with the laws that are projections fulfilled."""
        data, rules = self.config.data, self.config.constraints
        levels, surface = raw
        named = {name: levels[:, i] for i, name in enumerate(data.level_variables)}
        named |= {name: surface[:, i] for i, name in enumerate(data.surface_variables)}
        light = batch["insolation"][:, 0]
        fields = physical_fields(named, self._scales, insolation=light, pressure=batch["pressure"], lev=self._lev)
        if rules.water == "projection" and {"hus", "ps"} <= fields.keys():
            # A factor of gravity in each layer's mass changes nothing.
            mass = layer_mass(fields["ps"][..., 0, :, :], self._sigma_edges, 1.0)
            fields["hus"] = WaterNonNegativity().project(fields["hus"], mass, self._grid)
        if rules.dry_mass == "projection" and {"hus", "ps"} <= fields.keys():
            ps = DryMass().project(fields["ps"][..., 0, :, :], fields["hus"], self._sigma_edges, self._grid)
            fields["ps"] = ps[..., None, :, :]
        if rules.energy == "projection" and {"rst", "rlut"} <= fields.keys():
            rst, rlut = (fields[name][..., 0, :, :] for name in ("rst", "rlut"))
            rst, rlut = EnergyBalance().project(rst, rlut, self._grid, rsdt=light[..., 0, :, :])
            fields |= {"rst": rst[..., None, :, :], "rlut": rlut[..., None, :, :]}
        return fields

    def _loss(self, raw: tuple[jax.Array, jax.Array], batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Squared errors over the variables' variances, weighted by area and summed over planets, with the laws that
        are losses; and the number of planets, counting as parts those that lack values."""
        fields, truth, visible = self._physical(raw, batch), self._truth(batch), self._visible(batch)
        area = jnp.asarray(self._grid.lat_weights[:, None], jnp.float32)
        total = weight = jnp.zeros((), jnp.float32)
        for name, field in fields.items():
            counts = jnp.isfinite(truth[name]) & ~visible[name]
            error = jnp.where(counts, (field - jnp.where(counts, truth[name], 0.0)) / self._scales[name].std, 0.0)
            cells = error.size / error.shape[0] / error.shape[-2] * len(fields)
            total += jnp.sum(error**2 * area) / cells
            weight += jnp.sum(counts * area) / cells
        return total + weight * self.config.constraints.weight * self._broken_laws(fields, truth), weight

    def _broken_laws(self, fields, truth) -> jax.Array:
        rules, loss = self.config.constraints, jnp.zeros((), jnp.float32)
        flat = {name: field[..., 0, :, :] for name, field in fields.items() if field.shape[3] == 1}
        if rules.energy == "loss" and {"rst", "rlut"} <= flat.keys():
            actual = energy_imbalance(truth["rst"][..., 0, :, :], truth["rlut"][..., 0, :, :], self._grid)
            known = jnp.isfinite(actual)
            mine = energy_imbalance(flat["rst"], flat["rlut"], self._grid)
            target = jnp.where(known, actual, jax.lax.stop_gradient(mine))
            loss += EnergyBalance().loss(flat["rst"], flat["rlut"], self._grid, target)
        if rules.dry_mass == "loss" and {"hus", "ps"} <= fields.keys():
            loss += DryMass().loss(flat["ps"], fields["hus"], self._sigma_edges, self._grid)
        if rules.water == "loss" and "hus" in fields:
            loss += WaterNonNegativity().loss(fields["hus"], self._grid)
        return loss


_STORE = Path("data/cubes.zarr")


def _told(inputs: boundary.Boundary, planets: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """What a batch holds of the planets in these places beside their climates."""
    names = ("maps", "parameters", "ages", "pressure", "present", "rotating", "seasons")
    told = {name: getattr(inputs, name)[planets] for name in names}
    return told | {"insolation": inputs.insolation[planets][:, None]}


def _is_store(path: str) -> bool:
    return (Path(path) / "zarr.json").exists()


def _no_standard(num_maps: int, num_parameters: int) -> boundary.Standard:
    return boundary.Standard(np.zeros(num_maps), np.ones(num_maps), np.zeros(num_parameters), np.ones(num_parameters))
