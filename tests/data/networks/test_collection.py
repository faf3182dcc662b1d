import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from astrojax.data.networks.collection import read_collection, render
from astrojax.data.networks.universe import Universe
from astrojax.errors import RequestError
from tests.data.networks.models import write_model
from tests.data.networks.test_sbml import GLUCOSE, KINASE, KINASE_SPECIES

ECOLI = "data/metabolic/MODEL1108160000.xml.gz"  # iJO1366
OLDER_ECOLI = "data/metabolic/MODEL3023609334.xml.gz"  # iAF1260
THERMOTOGA = "data/metabolic/BIOMD0000001092.xml.gz"


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return read_collection([ECOLI, OLDER_ECOLI, THERMOTOGA], workers=1)


def test_shipped_models_share_most_of_what_they_do(three):
    assert three.universe.networks == ("BIOMD0000001092", "MODEL1108160000", "MODEL3023609334")
    present = three.universe.present
    thermotoga, new, old = present
    # iJO1366 grew out of iAF1260, which had 2,077 inner reactions.
    assert (new & old).sum() > 0.85 * old.sum()
    assert 0.5 < (thermotoga & new).sum() / thermotoga.sum() < 0.9
    assert three.report["shared_reactions"] == (present.sum(0) > 1).sum()


def test_shipped_reactions_balance(three):
    left = [three.universe.imbalance(reaction) for reaction in three.universe.reactions]
    known = [rest for rest in left if rest is not None]
    assert len(known) > 0.85 * len(left)
    assert sum(not rest for rest in known) > 0.98 * len(known)


def test_glucose_is_one_compound_with_its_formula(three):
    glucose = [c for c in three.universe.compounds if "C00031" in c.accessions.get("kegg.compound", ())]
    assert len(glucose) == 1
    assert glucose[0].elements == {"C": 6, "H": 12, "O": 6}
    assert "glc" in " ".join(glucose[0].accessions["bigg.metabolite"])


def test_a_universe_survives_its_file(three, tmp_path):
    path = tmp_path / "universe.json.zst"
    three.universe.save(path)
    restored = Universe.load(path)
    assert restored.reactions == three.universe.reactions
    assert restored.compounds == three.universe.compounds
    np.testing.assert_array_equal(restored.present, three.universe.present)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RequestError, match=r"universe\.json\.zst: not a universe of reactions, or damaged"):
        Universe.load(path)
    with pytest.raises(RequestError, match="no such file"):
        Universe.load(tmp_path / "nowhere")


def test_what_cannot_be_read_is_reported_not_dropped(tmp_path):
    write_model(tmp_path / "good.xml", KINASE_SPECIES, [KINASE])
    write_model(tmp_path / "empty.xml", [GLUCOSE], [])
    (tmp_path / "cut.xml.gz").write_bytes(gzip.compress(b"<sbml/>" * 99)[:-20])
    (tmp_path / "notes.txt").write_text("not a model")
    report = read_collection([str(tmp_path)], workers=1).report
    assert [record["name"] for record in report["models"]] == ["good"]
    assert {name.rsplit("/", 1)[-1] for name in report["refused"]} == {"empty.xml", "cut.xml.gz"}
    text = render(report)
    assert "cut.xml.gz: damaged" in text
    assert "empty.xml: no reactions" in text


def test_requests_that_make_no_sense(tmp_path):
    with pytest.raises(RequestError, match="no SBML file there"):
        read_collection([str(tmp_path)])
    write_model(tmp_path / "empty.xml", [GLUCOSE], [])
    with pytest.raises(RequestError, match=r"none of 1 models could be read: .*empty\.xml: no reactions"):
        read_collection([str(tmp_path)], workers=1)
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        write_model(tmp_path / folder / "twin.xml", KINASE_SPECIES, [KINASE])
    with pytest.raises(RequestError, match="two models are called twin"):
        read_collection([str(tmp_path / "one"), str(tmp_path / "other")], workers=1)


def test_command_line(tmp_path):
    write_model(tmp_path / "good.xml", KINASE_SPECIES, [KINASE])
    command = [sys.executable, "-m", "astrojax.data.networks"]
    out, report = tmp_path / "universe.json.zst", tmp_path / "report.json"
    flags = ["--out", str(out), "--report", str(report)]
    done = subprocess.run([*command, str(tmp_path / "good.xml"), *flags], capture_output=True, text=True, check=True)
    assert "1 models, 5 compounds, 1 inner reactions" in done.stdout
    assert len(Universe.load(out).reactions) == 1
    assert json.loads(report.read_text())["models"][0]["balanced"] == 1
    refused = subprocess.run([*command, str(tmp_path / "nowhere")], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr == f"error: {tmp_path}/nowhere: no SBML file there (*.xml, *.sbml, compressed or not)\n"
