import msgspec
import pytest

from astrojax import config as configs
from astrojax.errors import RequestError
from astrojax.tasks import read_config
from astrojax.train.optimizers import Lion


@pytest.fixture
def tiny():
    return configs.load_config("configs/llm.py")


def test_override_reads_each_field_by_its_type(tiny):
    changed = configs.override(
        tiny,
        {
            "optimizer.peak_lr": "1e-4",
            "train.steps": "7",
            "model.tie_embeddings": "true",
            "optimizer.clip_norm": "none",
            "data.path": "some/folder",
            "checkpoint.every_minutes": "2.5",
        },
    )
    assert changed.optimizer.peak_lr == 1e-4
    assert changed.train.steps == 7
    assert changed.model.tie_embeddings is True
    assert changed.optimizer.clip_norm is None
    assert changed.data.path == "some/folder"
    assert changed.checkpoint.every_minutes == 2.5
    assert tiny.train.steps != 7


def test_a_value_named_none_is_not_nothing(tiny):
    assert configs.override(tiny, {"model.remat": "full"}).model.remat == "full"
    assert configs.override(tiny, {"model.remat": "none"}).model.remat == "none"
    assert configs.override(tiny, {"train.microbatch_size": "none"}).train.microbatch_size is None


def test_naming_a_kind_brings_its_defaults(tiny):
    changed = configs.override(tiny, {"optimizer.b2": "0.95", "optimizer": "lion"})
    assert changed.optimizer == Lion(b2=0.95)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimiser.peak_lr", "1", "no field 'optimiser'; did you mean 'optimizer'?"),
        ("train.stepz", "1", "train has no field 'stepz'; did you mean 'steps'?"),
        ("train.steps", "many", "train.steps.*int.*'many'"),
        ("train.steps", "0", "train.steps.*>= 1.*'0'"),
        ("train", "3", "train is a section"),
        ("train.steps.more", "3", "train.steps has no field 'more'"),
        ("optimizer", "adam", "optimizer.*'adam'"),
        ("optimizer.schedule", "linear", "optimizer.schedule.*'linear'"),
        ("model.num_kv_heads", "3", "num_heads=4 is not a multiple of num_kv_heads=3"),
        ("train.microbatch_size", "5", "microbatch_size=5 does not divide batch_size=8"),
    ],
)
def test_bad_overrides_name_the_field_and_the_value(tiny, field, value, message):
    with pytest.raises(RequestError, match=message) as error:
        configs.override(tiny, {field: value})
    assert "\n" not in str(error.value)


def test_json_keeps_every_field(tiny):
    assert read_config(configs.to_json(tiny)) == tiny
    changed = configs.override(tiny, {"optimizer": "sophia"})
    assert read_config(configs.to_json(changed)) == changed


def test_json_of_another_program_is_refused():
    for text in (b"{}", b'{"task": "poetry"}', b"[1]", b"not json"):
        with pytest.raises(RequestError):
            read_config(text)


def test_differences_leave_out_what_may_change(tiny):
    other = configs.override(tiny, {"train.steps": "9", "train.seed": "3", "mesh.data": "2", "optimizer": "lion"})
    changed = configs.differences(tiny, other, ignore=("train.steps", "mesh"))
    assert changed["train.seed"] == (0, 3)
    assert changed["optimizer.kind"] == ("adamw", "lion")
    assert not any(field.startswith(("train.steps", "mesh")) for field in changed)


def test_configs_are_immutable_and_hashable(tiny):
    with pytest.raises(AttributeError):
        tiny.train.steps = 3
    assert hash(tiny) == hash(msgspec.json.decode(configs.to_json(tiny), type=type(tiny)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no get_config"),
        ("def get_config(:", "SyntaxError"),
        ("import a_module_that_is_missing", "ModuleNotFoundError"),
        ("def get_config():\n    raise ValueError('nine is too many')", "nine is too many"),
    ],
)
def test_unusable_config_files_are_refused(tmp_path, text, message):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(RequestError, match=message):
        configs.load_config(str(file))


def test_missing_file_and_unknown_preset_are_refused():
    with pytest.raises(RequestError, match=r"no such file: configs/lm\.py"):
        configs.load_config("configs/lm.py")
    with pytest.raises(RequestError, match="no preset '13b_alined'; did you mean '13b_aligned'"):
        configs.load_config("configs/llm.py:13b_alined")
