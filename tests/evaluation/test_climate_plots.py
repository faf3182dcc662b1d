"""Every picture is drawn, also of fields with gaps, and the page shows what is there."""

import html.parser

import numpy as np
import pytest
from matplotlib.image import imread

from astrojax.evaluation.climate_metrics import Climates
from astrojax.evaluation.climate_plots import (
    Section,
    global_means,
    learning_curve,
    maps,
    scores,
    write_page,
    zonal_sections,
)
from astrojax.physics.grid import regular

UNITS = {"ta": "K", "ua": "m s⁻¹", "ts": "K"}


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    n, months, levels, lat, lon = 4, 3, 2, 6, 8
    fields = {
        "ta": rng.normal(250, 20, (n, months, levels, lat, lon)),
        "ua": rng.normal(0, 20, (n, months, levels, lat, lon)),
        "ts": rng.normal(250, 20, (n, months, 1, lat, lon)),
    }
    fields["ta"][:, :, 1, 2, :] = np.nan  # Below the ground.
    return Climates(
        planets=("a", "a", "b", "b"),
        epochs=np.asarray([0, 1, 0, 1]),
        parameter_names=(),
        parameters=np.zeros((n, 0)),
        boundary_names=(),
        boundary=np.zeros((n, months, 0, lat, lon)),
        fields=fields,
        lev=np.asarray([0.2, 0.8]),
        grid=regular(lat, lon),
    )


@pytest.fixture(scope="module")
def predicted(truth):
    return {name: field + 1 for name, field in truth.fields.items()}


def colours_of(path) -> set[tuple]:
    return set(map(tuple, (imread(path)[..., :3].reshape(-1, 3) * 255).astype(int)))


@pytest.mark.parametrize(("variable", "level"), [("ta", 1), ("ts", 0)])
def test_maps(tmp_path, truth, predicted, variable, level):
    maps(tmp_path / "map.png", truth, predicted, variable, 2, UNITS, level)
    assert len(colours_of(tmp_path / "map.png")) > 40


def test_maps_differ_between_climates_and_levels(tmp_path, truth, predicted):
    pictures = []
    for sample, level in ((0, 0), (1, 0), (0, 1)):
        maps(tmp_path / "map.png", truth, predicted, "ua", sample, UNITS, level)
        pictures.append((tmp_path / "map.png").read_bytes())
    assert len(set(pictures)) == 3


def test_zonal_sections(tmp_path, truth, predicted):
    zonal_sections(tmp_path / "section.png", truth, predicted, "ta", 1, UNITS)
    assert len(colours_of(tmp_path / "section.png")) > 15


def test_global_means_have_a_colour_per_planet(tmp_path, truth, predicted):
    global_means(tmp_path / "means.png", truth, predicted, ["ta", "ua", "ts"], UNITS)
    assert imread(tmp_path / "means.png").std() > 0.02


def test_curve_and_scores(tmp_path):
    learning_curve(tmp_path / "c.png", [3, 6], {"network": [0.2, 0.9], "pca_gp": [0.1, np.nan]}, "R² of ts")
    scores(tmp_path / "s.png", {"network": {"ts": 5.0}, "mean": {"ts": 30.0}, "boosting": {"ts": 11.0}})
    for name in ("c.png", "s.png"):
        assert (193, 39, 45) in colours_of(tmp_path / name)  # The network's own red.


class Reader(html.parser.HTMLParser):
    """Images, links, text and whether every element is closed."""

    def __init__(self):
        super().__init__()
        self.images, self.links, self.ids, self.text, self.open = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs["src"])
        if tag == "a":
            self.links.append(attrs["href"])
        self.ids.append(attrs.get("id"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_whole(tmp_path):
    scores(tmp_path / "rmse 1.png", {"network": {"ts": 5.0}, "mean": {"ts": 30.0}})
    table = [["variable", "RMSE"], ["ts", "<5 K>"]]
    sections = [Section("Scores & more", "Below 1 is better.", table, [("rmse 1.png", "RMSE of ts")]), Section("End")]
    reader = Reader()
    reader.feed(write_page(tmp_path, "Planets", sections).read_text())
    assert not reader.open
    assert reader.images == ["rmse%201.png"]
    assert all(link.removeprefix("#") in reader.ids for link in reader.links)
    assert len(reader.links) == 2
    assert {"Scores & more", "<5 K>", "Below 1 is better."} <= set(reader.text)


def test_a_page_without_its_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no lost\.png"):
        write_page(tmp_path, "Planets", [Section("Scores", figures=[("lost.png", "")])])
    assert not (tmp_path / "index.html").exists()
