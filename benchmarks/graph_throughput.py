"""Training speed of the graph encoder beside the same encoder, and others, in PyTorch Geometric.

python -m benchmarks.graph_throughput --python PATH
# PATH: the Python of an environment with: pip install torch torch-geometric

The graphs are real: molecules of QM9, and candidate reactions with their neighbourhoods in draft networks; the sizes
are those of the presets in configs/graph_vae.py. There are three on the other side. ``same`` is our encoder with our
weights, layer by layer what models/graph_encoder.py computes, in PyTorch Geometric's way: nodes of all graphs one after
the other, ``scatter`` for messages, ``to_dense_batch`` and PyTorch's ``scaled_dot_product_attention`` with a learned
bias, whose fused kernel it leaves aside where a bias needs a gradient. Both sides must find the same loss and the same
norm of the gradient, to four digits on the CPU in float32, or nothing is timed. ``transformer`` and ``gine`` are
``GPSConv`` (Rampášek et al. 2022) as its documentation puts it together: as many layers, channels and heads,
``TransformerConv`` or ``GINEConv`` with edge features as the local half, attention over all nodes of a graph as the
global one. They compute less than ours does: their edges have no state of their own, their attention knows nothing of
the structure but through features of nodes (walks that come back, found beforehand), their feed-forward layer has two
matrices of twice the width and not three, and they have no tokens. PyTorch runs them operation by operation, or with
``--compile`` also compiled.

A step is the forward and the backward pass for all parameters; the loss is the mean square of what each graph is pooled
to, less one. With ``--precision bfloat16`` weights stay float32 and products take bfloat16: ours as our models have it,
theirs by ``autocast``. Float32 is multiplied as TF32 on a GPU, by both. The optimiser is left out. Both sides take the
same graphs in each step, once as batches made beforehand ("ready") and once made from graphs in memory within the time
taken ("assembled": packed, copied and put on the device; collated). Each side has a process of its own with as many
threads as the machine has cores, or ``--threads``. The processes take turns of some seconds, so that a change in the
machine's speed meets both; the first step of a turn is not timed. A turn in which other processes took more than a
twentieth of the machine is taken again: threads that wait for one another, as PyTorch's do, lose most by it. Figures
are medians over the turns, and a ratio's range is that over pairs of turns.
"""

import argparse
import functools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PRESETS = ("molecules", "metabolic", "molecules_8m")
BATCHES = 6  # Of each size, taken in turn.
QUIET, TRIES = 0.05, 12  # Share of the machine that others may take in a turn, and how often it is tried.
# Of the losses and the norms of the gradients of one encoder on two sides, relatively: in float32, and with fewer bits.
AGREEMENT, ROUGH_AGREEMENT = 1e-4, 1e-2
BACKENDS = {"cpu": "cpu", "gpu": "cuda"}  # As JAX and PyTorch both call them.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, required=True, help="of an environment with torch and torch-geometric")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS[:2])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=(96, 384), help="graphs in a step")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each side (default: cores)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn")
    parser.add_argument("--device", choices=BACKENDS, default="cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="also compile the PyTorch models (needs a C++ compiler)")
    parser.add_argument("--data", type=Path, help="where graphs are kept for another time (default: nowhere)")
    flags = parser.parse_args()
    figures = {"precision": flags.precision, "threads": flags.threads, "presets": {}}
    about = {"versions": {}, "device": None}
    with tempfile.TemporaryDirectory() as scratch:
        for preset in flags.presets:
            folder = (flags.data or Path(scratch)) / preset
            if not folder.exists():
                write_data(preset, folder)
            figures["presets"][preset] = measure(preset, folder, flags, about)
    from benchmarks.record import save_result

    name = "graph_throughput" + "_gpu" * (flags.device == "gpu") + "_bfloat16" * (flags.precision == "bfloat16")
    print("written to", save_result(name, figures, **about))


def write_data(preset: str, folder: Path) -> None:
    """Writes graphs of a preset, and what the other side must know of its model."""
    from astrojax.config import load_config
    from astrojax.data.graphs import write_graphs
    from astrojax.tasks import make_task

    config = load_config(f"configs/graph_vae.py:{preset}")
    folder.mkdir(parents=True)
    store = write_graphs(folder / "graphs", (candidates if preset == "metabolic" else molecules)(make_task(config)))
    model = config.model
    shape = {name: getattr(model, name) for name in ("num_layers", "d_model", "d_edge", "num_heads", "walk_length")}
    shape |= {"node_kinds": _node_kinds(config), "edge_kinds": int(store.fields["edges"]["kind"].max()) + 1}
    if model.num_heads * model.head_dim != model.d_model:
        raise SystemExit(f"{preset}: GPSConv has heads that share d_model between them")
    shape |= {"num_tokens": model.num_tokens, "norm_eps": model.norm_eps}
    (folder / "shape.json").write_text(json.dumps(shape))
    np.savez(folder / "weights.npz", **dict(_named(_new_encoder(config)[1])))


def _new_encoder(config):
    """Its definition, and weights drawn on one device."""
    import jax
    from flax import nnx

    from astrojax.parallel.mesh import MeshConfig, make_mesh
    from astrojax.tasks import make_task

    def new():
        return make_task(config).new_model(nnx.Rngs(params=jax.random.key(0))).encoder

    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        graphdef = nnx.graphdef(nnx.eval_shape(new))
        return graphdef, jax.jit(lambda: nnx.to_pure_dict(nnx.state(new())))()


def _named(tree: dict, prefix: str = ""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _named(value, f"{prefix}{name}.")
        else:
            yield prefix + name, np.asarray(value)


def _node_kinds(config) -> int:
    from astrojax.data.networks.neighbourhood import FIRST_COMPOUND

    data = config.data
    return data.num_types if hasattr(data, "num_types") else FIRST_COMPOUND + data.max_compounds


def molecules(task, count: int = 8192):
    from astrojax.data.molecules import atom_types, read_smiles, to_molecule

    rows = [row.smiles for row in read_smiles(task.config.data.path) if row.split == "train"]
    chosen = np.random.default_rng(0).choice(len(rows), count, replace=False)
    found = [to_molecule(rows[i]) for i in chosen]
    types = atom_types(found)
    return [task.graph(molecule, types) for molecule in found]


def candidates(task):
    """Those of the validation split."""
    from astrojax.data.networks.candidates import splits
    from astrojax.data.networks.collection import read_collection

    universe = read_collection([task.config.data.path]).universe
    parts = splits(universe)
    return task.graphs(universe, universe.present & (parts == "train"), np.flatnonzero(parts == "validation"))


def measure(preset: str, folder: Path, flags, about: dict) -> dict:
    """Figures of a preset; ``about`` learns the versions, and on a GPU the device, that they are of."""
    sizes = list(flags.batch_sizes)
    this_python, other_python = [sys.executable, "-m", "benchmarks.graph_throughput"], [flags.python, __file__]
    task, backend = [preset, folder, json.dumps(sizes), flags.precision], BACKENDS[flags.device]
    sides = {
        "astrojax": Side([*this_python, "astrojax", *task], backend, flags.threads),
        "pyg": Side([*other_python, "pyg", *task, backend, int(flags.compile)], backend, flags.threads),
    }
    figures = {"parameters": {}, "graphs_per_second": {}}
    for side in sides.values():
        about["versions"] |= side.about["versions"]
        about["device"] = side.about.get("device") or about["device"]
        figures["parameters"] |= side.about["parameters"]
        figures |= side.about.get("graphs", {})
    print(f"{preset}: parameters, and without tables of kinds: {figures['parameters']}")
    ours, theirs = (np.asarray(side.about["loss_and_gradient_norm"]) for side in sides.values())
    figures["loss_and_gradient_norm"] = {"astrojax": ours.tolist(), "pyg_same": theirs.tolist()}
    exact = flags.device == "cpu" and flags.precision == "float32"
    if np.max(np.abs(ours / theirs - 1)) > (AGREEMENT if exact else ROUGH_AGREEMENT):
        raise SystemExit(f"{preset}: the encoders differ: {figures['loss_and_gradient_norm']}")
    for size in sizes:
        for feed in ("ready", "assembled"):
            name = f"{feed}_{size}"
            figures["graphs_per_second"][name] = compare(sides, size, feed, flags)
    figures["disturbed_turns"] = sum(side.disturbed for side in sides.values())
    for side in sides.values():
        side.close()
    return figures


def compare(sides: dict[str, "Side"], size: int, feed: str, flags) -> dict:
    """Medians of graphs per second, and what ours are over each of theirs: median, and range over pairs of turns."""
    rates: dict[str, list[float]] = {}
    turns = [(side, variant) for side in sides.values() for variant in side.about["parameters"]]
    # All batches once untimed: shapes that compiled programs have not seen, and batches that are made beforehand.
    for side, variant in turns:
        side.take_turn(variant, size, feed, BATCHES, tries=1)
    seconds = [side.take_turn(variant, size, feed, BATCHES, tries=1) for side, variant in turns]
    for _ in range(flags.rounds):
        for (side, variant), each in zip(turns, seconds, strict=True):
            steps = max(BATCHES, round(flags.seconds / each))
            rates.setdefault(variant, []).append(size / side.take_turn(variant, size, feed, steps))
    found = {variant: round(statistics.median(values)) for variant, values in rates.items()}
    for variant, values in rates.items():
        print(f"  {size:4} {feed:9} {variant:22} {found[variant]:9,.0f} graphs/s", end="")
        if variant == "astrojax":
            print()
            continue
        ratios = [ours / theirs for ours, theirs in zip(rates["astrojax"], values, strict=True)]
        ratio = [statistics.median(ratios), min(ratios), max(ratios)]
        print("; astrojax is {:.2f} times as fast [{:.2f}, {:.2f}]".format(*ratio))
        found[f"ratio_over_{variant}"] = [round(x, 3) for x in ratio]
    return found


class Side:
    """A process that waits while it is not its turn.

    Attributes:
        about: what it says of itself: its variants' parameters, versions, and the device where that is a GPU.
        disturbed: how many turns were never quiet.
    """

    disturbed = 0

    def __init__(self, command, backend: str, threads: int):
        # As the product runs: glibc asks for huge pages. Both sides gain by it.
        environment = os.environ | {
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
            "OMP_NUM_THREADS": str(threads),
            "NPROC": str(threads),  # How many XLA starts.
            "JAX_PLATFORMS": backend,
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.4",  # Of a GPU, which both sides hold.
        }
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=pipe, stdout=pipe, text=True, env=environment
        )
        self.about = self._answer()

    def take_turn(self, variant: str, size: int, feed: str, steps: int, tries: int = TRIES) -> float:
        """Seconds per step. If others were busy at each of so many tries, those of the quietest."""
        taken = []
        for _ in range(tries):
            self.process.stdin.write(json.dumps([variant, size, feed, steps]) + "\n")
            self.process.stdin.flush()
            seconds, others = self._answer()
            taken.append((others, seconds))
            if others < QUIET:
                return seconds
            time.sleep(1)
        self.disturbed += 1
        return min(taken)[1]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with {self.process.wait()}")
        return json.loads(line)


def serve(about: dict, step) -> None:
    """Answers turns until there are no more.

    Args:
        about: see :class:`Side`.
        step: ``step(variant, size, feed, number)`` takes one.
    """
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        variant, size, feed, steps = json.loads(line)
        step(variant, size, feed, 0)
        began, busy = time.perf_counter(), busy_others()
        for number in range(steps):
            step(variant, size, feed, number % BATCHES)
        seconds, busy = time.perf_counter() - began, busy_others() - busy
        print(json.dumps([seconds / steps, busy / seconds / os.cpu_count()]), flush=True)


def busy_others() -> float:
    """Seconds that the machine's cores have worked, or waited for their host, for others than this process."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _, _, irq, softirq, steal = (int(x) / os.sysconf("SC_CLK_TCK") for x in fields)
    return user + nice + system + irq + softirq + steal - time.process_time()


def places_of_batches(num_graphs: int, size: int) -> np.ndarray:
    return np.random.default_rng(size).choice(num_graphs, (BATCHES, size), replace=num_graphs < BATCHES * size)


def serve_astrojax(preset: str, folder: Path, sizes: list[int], precision: str) -> None:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from astrojax.config import load_config, override
    from astrojax.data.graphs import GraphStore, assemble, pack
    from astrojax.parallel.mesh import MeshConfig, make_mesh
    from astrojax.parallel.sharding import put_batch

    config = override(load_config(f"configs/graph_vae.py:{preset}"), {"model.precision.compute": precision})
    budget, store, mesh = config.budget, GraphStore(folder / "graphs"), make_mesh(MeshConfig(), jax.devices()[:1])
    graphdef, params = _new_encoder(config)

    @jax.jit
    def loss_and_gradients(params, graphs):
        def loss(params):
            pooled = jnp.mean(nnx.merge(graphdef, params)(graphs).tokens, axis=2)
            present = graphs.globals["place"] >= 0
            squares = jnp.where(present, jnp.mean(jnp.square(pooled - 1.0), axis=-1), 0.0)
            return jnp.sum(squares) / jnp.sum(present)

        return jax.value_and_grad(loss)(params)

    places = {size: places_of_batches(len(store), size) for size in sizes}

    def plan(batch):
        return pack(store.n_node, store.n_edge, batch, budget)

    num_rows = {size: max(len(plan(batch)) for batch in places[size]) for size in sizes}

    def made(size, number):
        rows = plan(places[size][number])
        rows += [[] for _ in range(num_rows[size] - len(rows))]
        return put_batch(assemble(store, rows, budget), mesh)

    ready = functools.cache(made)

    def step(variant, size, feed, number):
        with jax.set_mesh(mesh):
            return jax.block_until_ready(loss_and_gradients(params, (ready if feed == "ready" else made)(size, number)))

    loss, gradients = step("astrojax", sizes[0], "ready", 0)
    norm = sum(float(jnp.sum(jnp.square(x))) for x in jax.tree.leaves(gradients)) ** 0.5
    count = sum(x.size for x in jax.tree.leaves(params))
    without = count - params["node_kind_vd"].size - params["edge_kind_vc"].size
    graphs = {
        "mean_nodes": round(float(store.n_node.mean()), 2),
        "mean_edges": round(float(store.n_edge.mean()), 2),
        "budget": [budget.nodes, budget.edges, budget.graphs, budget.graph_nodes],
        "rows": num_rows,
    }
    about = {"versions": {"jax": jax.__version__}, "parameters": {"astrojax": [count, without]}}
    if jax.default_backend() == "gpu":
        about["device"] = jax.devices()[0].device_kind
    serve(about | {"graphs": graphs, "loss_and_gradient_norm": [float(loss), norm]}, step)


def serve_pyg(folder: Path, sizes: list[int], precision: str, backend: str, compiled: bool) -> None:
    import torch
    import torch_geometric
    from torch_geometric.data import Batch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # On a GPU as XLA's default; a CPU's products are float32 all the same.
    data = read_for_pyg(folder)
    shape = json.loads((folder / "shape.json").read_text())
    models = {local: gps(shape, data[0], local) for local in ("transformer", "gine")}
    models |= {"same": same(shape, np.load(folder / "weights.npz"))}
    models = {name: model.to(backend) for name, model in models.items()}
    variants = {f"pyg_{name}": (model, model) for name, model in models.items()}
    # In pieces: that batches differ in their largest graph breaks GPSConv's program in two.
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    if compiled:
        variants |= {f"{name}_compiled": (m, torch.compile(m, dynamic=True)) for name, (m, _) in variants.items()}
    places = {size: places_of_batches(len(data), size) for size in sizes}

    def made(size, number):
        return Batch.from_data_list([data[place] for place in places[size][number]]).to(backend)

    ready = functools.cache(made)

    def step(variant, size, feed, number):
        batch = (ready if feed == "ready" else made)(size, number)
        model, forward = variants[variant]
        model.zero_grad(set_to_none=True)
        with torch.device(backend), torch.autocast(backend, torch.bfloat16, enabled=precision == "bfloat16"):
            pooled = forward(
                *(batch.kind, batch.known, batch.edge_kind, batch.get("edge_attr"), batch.edge_index, batch.batch),
                batch.num_graphs,
            )
        loss = (pooled - 1.0).square().mean()
        loss.backward()
        if backend == "cuda":
            torch.cuda.synchronize()
        return loss

    def counts(model):
        tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
        sizes = [(p.numel(), id(p) in tables) for p in model.parameters()]
        return [sum(n for n, _ in sizes), sum(n for n, table in sizes if not table)]

    loss = step("pyg_same", sizes[0], "ready", 0).item()
    norm = sum(float(p.grad.square().sum()) for p in models["same"].parameters() if p.grad is not None) ** 0.5
    versions = {"torch": torch.__version__, "torch_geometric": torch_geometric.__version__}
    about = {"versions": versions, "parameters": {name: counts(model) for name, (model, _) in variants.items()}}
    serve(about | {"loss_and_gradient_norm": [loss, norm]}, step)


def read_for_pyg(folder: Path) -> list:
    """The store's graphs as PyTorch Geometric has them, with degrees and random walks that come back as features."""
    import torch
    from torch_geometric.data import Data

    def load(part):
        return {file.stem: np.load(file) for file in (folder / "graphs" / part).glob("*.npy")}

    walk_length = json.loads((folder / "shape.json").read_text())["walk_length"]
    nodes, edges = load("nodes"), load("edges")
    node_ends, edge_ends = (np.cumsum(np.load(folder / "graphs" / f"{n}.npy")) for n in ("n_node", "n_edge"))
    graphs = []
    for own in zip(np.r_[0, node_ends[:-1]], node_ends, np.r_[0, edge_ends[:-1]], edge_ends, strict=True):
        n, m = slice(*own[:2]), slice(*own[2:])
        senders, receivers = edges["senders"][m].astype(np.int64), edges["receivers"][m].astype(np.int64)
        adjacency = np.zeros((own[1] - own[0],) * 2, np.float32)
        np.add.at(adjacency, (receivers, senders), 1.0)
        degrees = adjacency.sum(1, keepdims=True)
        walk = adjacency / np.maximum(degrees, 1.0)
        powers = [walk]
        for _ in range(walk_length - 1):
            powers.append(powers[-1] @ walk)
        known = [np.log1p(degrees), np.stack([np.diag(power) for power in powers], axis=1)]
        if "features" in nodes:
            known.append(nodes["features"][n].astype(np.float32))
        graph = Data(
            num_nodes=len(adjacency),
            kind=torch.from_numpy(nodes["kind"][n].astype(np.int64)),
            known=torch.from_numpy(np.concatenate(known, axis=1).astype(np.float32)),
            edge_kind=torch.from_numpy(edges["kind"][m].astype(np.int64)),
            edge_index=torch.from_numpy(np.stack([senders, receivers])),
        )
        if "features" in edges:
            graph.edge_attr = torch.from_numpy(edges["features"][m].astype(np.float32))
        graphs.append(graph)
    return graphs


def gps(shape: dict, example, local: str):
    """Layers of ``GPSConv`` between embeddings and the mean over each graph."""
    from torch import nn
    from torch_geometric.nn import GINEConv, GPSConv, TransformerConv, global_mean_pool

    d, c, heads = shape["d_model"], shape["d_edge"], shape["num_heads"]

    def conv():
        if local == "transformer":
            return TransformerConv(d, d // heads, heads, edge_dim=c)
        return GINEConv(nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d)), edge_dim=c)

    class GPS(nn.Module):
        def __init__(self):
            super().__init__()
            self.node_kind = nn.Embedding(shape["node_kinds"], d)
            self.known = nn.Linear(example.known.shape[1], d)
            self.edge_kind = nn.Embedding(shape["edge_kinds"], c)
            if "edge_attr" in example:
                self.edge_features = nn.Linear(example.edge_attr.shape[1], c)
            # Over nodes, as in transformers; its default, over the batch, is slower here.
            norm = {"norm": "layer_norm", "norm_kwargs": {"mode": "node"}}
            layers = [GPSConv(d, conv(), heads=heads, **norm) for _ in range(shape["num_layers"])]
            self.layers = nn.ModuleList(layers)

        def forward(self, kind, known, edge_kind, edge_attr, edge_index, batch, num_graphs: int):
            x, edges = self.node_kind(kind) + self.known(known), self.edge_kind(edge_kind)
            if edge_attr is not None:
                edges = edges + self.edge_features(edge_attr)
            for layer in self.layers:
                x = layer(x, edge_index, batch, edge_attr=edges)
            return global_mean_pool(x, batch, num_graphs)

    return GPS().train()


def same(shape: dict, weights):
    """Our encoder, with our weights."""
    import torch
    from torch import nn
    from torch.nn import functional
    from torch_geometric.utils import scatter, to_dense_adj, to_dense_batch

    heads, f, k, eps = (shape[name] for name in ("num_heads", "walk_length", "num_tokens", "norm_eps"))

    def parameter(name):
        return nn.Parameter(torch.from_numpy(weights[name]))

    class Same(nn.Module):
        def __init__(self):
            super().__init__()
            self.node_kind, self.edge_kind = (
                nn.Embedding.from_pretrained(torch.from_numpy(weights[name]), freeze=False)
                for name in ("node_kind_vd", "edge_kind_vc")
            )
            self.weights = nn.ParameterDict(
                {
                    name.replace(".", "/"): parameter(name)
                    for name in weights.files
                    if name not in ("node_kind_vd", "edge_kind_vc", "edge_norm_c")
                }
            )

        def forward(self, kind, known, edge_kind, edge_attr, edge_index, batch, num_graphs: int):
            w, norm = self.weights, lambda x, scale: functional.rms_norm(x, x.shape[-1:], scale, eps)
            senders, receivers = edge_index
            degrees = scatter(torch.ones(len(senders)), receivers, dim_size=len(kind))
            adjacency = to_dense_adj(torch.stack([receivers, senders]), batch, batch_size=num_graphs)
            scale = adjacency.sum(-1).clamp(min=1).rsqrt()
            normalised = adjacency * scale[:, :, None] * scale[:, None]
            power, near, walks = normalised, torch.eye(normalised.shape[1]), []
            for step in range(f):
                power = power @ normalised if step else normalised
                near = torch.maximum(near, (power > 0).float())
                walks += [power, near.expand_as(power)]
            _, present = to_dense_batch(kind, batch, batch_size=num_graphs)
            returns = torch.stack([x.diagonal(dim1=1, dim2=2) for x in walks[::2]], -1)[present]
            # Theirs has walks that come back already; ours finds them in every step.
            features = [degrees.log1p()[:, None], returns, known[:, 1 + f :]]
            x = self.node_kind(kind) + torch.cat(features, -1) @ w["node_features_fd"]
            edges = self.edge_kind(edge_kind)
            if edge_attr is not None:
                edges = edges + edge_attr @ w["edge_features_fc"]
            tokens = w["tokens_kd"].expand(num_graphs, -1, -1)
            walks = torch.stack(walks[::2] + walks[1::2], 1)
            token = torch.arange(walks.shape[-1] + k) >= walks.shape[-1]
            pairs = torch.stack([token[:, None] & ~token, ~token[:, None] & token, token[:, None] & token]).float()
            seen = functional.pad(present, (0, k), value=True)[:, None, None]
            # All layers' biases at once, as ours.
            bias = torch.einsum("lfh,gfij->lghij", w["layers/bias_fh"][:, : 2 * f], walks)
            bias = functional.pad(bias, (0, k, 0, k))
            bias = bias + torch.einsum("lfh,fij->lhij", w["layers/bias_fh"][:, 2 * f :], pairs)[:, None]
            bias = bias.masked_fill(~seen, -torch.inf)
            damped = (1 + degrees).rsqrt()[:, None]
            for i in range(len(bias)):
                layer = {name.removeprefix("layers/"): p[i] for name, p in w.items() if name.startswith("layers/")}
                y = norm(x, layer["local_norm_d"])
                hidden = norm(edges, layer["edge_norm_c"]) @ layer["edge_cc"]
                hidden = hidden + (y @ layer["sender_dc"])[senders] + (y @ layer["receiver_dc"])[receivers]
                edges = edges + functional.silu(hidden) @ layer["edge_out_cc"]
                sent = torch.sigmoid(edges @ layer["gate_cd"]) * (y @ layer["message_dd"])[senders]
                x = x + scatter(sent, receivers, dim_size=len(x)) * damped @ layer["message_out_dd"]
                y, yt = (norm(z, layer["attention_norm_d"]) for z in (x, tokens))
                y = torch.cat([to_dense_batch(y, batch, batch_size=num_graphs)[0], yt], 1)
                q, key, v = (
                    (y @ layer[name]).unflatten(-1, (heads, -1)).transpose(1, 2) for name in ("q_do", "k_do", "v_do")
                )
                out = functional.scaled_dot_product_attention(q, key, v, attn_mask=bias[i])
                out = out.transpose(1, 2).flatten(2) @ layer["o_od"]
                x, tokens = x + out[:, :-k][present], tokens + out[:, -k:]
                every = torch.cat([x, tokens.flatten(0, 1)])
                y = norm(every, layer["mlp_norm_d"])
                every = (
                    every + functional.silu(y @ layer["mlp/gate_df"]) * (y @ layer["mlp/up_df"]) @ layer["mlp/down_fd"]
                )
                x, tokens = every[: len(x)], every[len(x) :].view_as(tokens)
            return norm(tokens, w["norm_d"]).mean(1)

    return Same().train()


if __name__ == "__main__":
    if sys.argv[1:2] == ["astrojax"]:
        serve_astrojax(sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]), sys.argv[5])
    elif sys.argv[1:2] == ["pyg"]:
        serve_pyg(Path(sys.argv[3]), json.loads(sys.argv[4]), *sys.argv[5:7], sys.argv[7] == "1")
    else:
        main()
