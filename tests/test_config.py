"""params.yaml: read once, validated, one clear line when something is wrong."""

from pathlib import Path
from typing import get_args

import pytest
import yaml

from pipeline.datasets.registry import check_data
from safe.config import Config, Eval
from safe.errors import ConfigError
from safe.evaluation.perturb import PERTURBATIONS
from safe.params import load_config

PARAMS = Path(__file__).parents[1] / "params.yaml"


def test_the_projects_own_params_are_valid_and_frozen():
    config = load_config(PARAMS)
    assert config.model.window == 4
    assert config.data.folds == [1]
    with pytest.raises(ValueError, match="frozen"):
        config.train.lr = 1.0


@pytest.mark.parametrize(
    ("override", "key", "what"),
    [
        ("train.epochss=3", "train.epochss", "unknown key"),
        ("trian.epochs=3", "trian.epochs", "unknown key"),
        ("data={nme:dfew}", "data.nme", "unknown key"),
        ("train.epochs=many", "train.epochs", "valid integer"),
        ("train.epochs=2.5", "train.epochs", "valid integer"),
        ("acl.cal=1", "acl.cal", "valid boolean"),
        ("train.epochs=0", "train.epochs", "greater than or equal to 1"),
        ("train.lr=0", "train.lr", "greater than 0"),
        ("train.lr=nan", "train.lr", "finite"),
        ("train.lr_min=1", "train.lr_min", "not be above lr"),
        ("train.warmup=37", "train.warmup", "not be above epochs, 36"),
        ("tam.ratio=1.5", "tam.ratio", "less than or equal to 1"),
        ("tam.block=15", "tam.block", "must divide augment.crop, 48"),
        ("augment.crop=96", "augment.crop", "at most shard.size, 64"),
        ("model.window=17", "model.window", "longer than the clip"),
        ("model.backbone=vgg", "model.backbone", "or 'r3d_18'"),
        ("shard.size=100", "shard.size", "multiple of 16"),
        ("data.folds=[0]", "data.folds", "greater than"),
        ("data.folds=[1,1]", "data.folds", "different numbers"),
        ("data.folds=[]", "data.folds", "at least 1 item"),
        ("data.name=../x", "data.name", "match pattern"),
        ("data.name=DFEW", "data.name", "match pattern"),
        ("data.name=nowhere", "data.name", "one of synthetic, dfew, ferv39k, own"),
        ("data.name=ferv39k", "data.splits", "4_setups"),
        ("runtime.device=tpu", "runtime.device", "match pattern"),
        ("runtime.engine=dask", "runtime.engine", "match pattern"),
        ("runtime.engine=http://head:8786", "runtime.engine", "match pattern"),
        ("runtime.engine=tcp://head", "runtime.engine", "match pattern"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(override, key, what):
    with pytest.raises(ConfigError) as caught:
        check_data(load_config(PARAMS, [override]))
    line = str(caught.value)
    assert key in line
    assert what in line
    assert "\n" not in line


@pytest.mark.parametrize("override", ["train.lr", "train.lr=1,2", "+train.new=3", "~train.lr"])
def test_only_one_existing_key_is_overridden(override):
    with pytest.raises(ConfigError, match="-S "):
        load_config(PARAMS, [override])


def test_overrides_merge_into_a_section_as_dvc_does():
    line = "data={name:dfew,root:/data/DFEW,source:frames,folds:[1,2]}"
    data = load_config(PARAMS, [line, "train.clip_grad=null", "train.lr=3e-4"]).data
    assert (data.name, data.root, data.source, data.folds) == (
        "dfew",
        "/data/DFEW",
        "frames",
        [1, 2],
    )
    assert data.splits == "EmoLabel_DataSplit"  # not in the override: kept


def test_the_perturbations_are_those_that_there_are():
    field = Eval.model_fields["perturb"]
    assert set(get_args(field.annotation)) == {"none", *PERTURBATIONS}


def test_a_missing_section_or_key_has_its_default_and_can_be_overridden(tmp_path):
    raw = yaml.safe_load(PARAMS.read_text())
    del raw["train"]["lr"], raw["acl"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    assert load_config(path) == Config() == load_config(PARAMS)
    changed = load_config(path, ["train.lr=0.5", "acl.tau=0.2"])
    assert (changed.train.lr, changed.acl.tau) == (0.5, 0.2)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="not found"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("seed: 1\nseed: 2\n", "'seed' is given twice"),
        ("data: {name: a, name: b}\n", "'name' is given twice"),
        ("seed: [1\n", "not valid YAML"),
        ("- 1\n", "must hold sections"),
        ("seed: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("seed: &a [1]\ndata: *a\n", r"an alias \(line 2\) is not allowed"),
        ("seed: " + "[" * 2_000, "nested too deeply"),
        ("seed: " + "9" * 5_000, "not valid YAML"),
        ("seed: 2020-99-99", "not valid YAML"),
        ("seed: !!timestamp x", "not valid YAML"),
        ("? [a]\n: b", "not valid YAML"),
        ("seed: " + " " * 2**20, "larger than 1,048,576 bytes"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, text, what):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_a_billion_laughs_are_refused_at_the_first(tmp_path):
    lines = ["a0: &a0 [lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    path = tmp_path / "params.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"an alias \(line 2\) is not allowed"):
        load_config(path)


@pytest.mark.parametrize("value", ["x" * 10_000, "0x" + "f" * 9_000, "[" + "1, " * 9_000 + "1]"])
def test_a_long_value_is_told_by_its_beginning(tmp_path, value):
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.read_text().replace("seed: 0 ", f"seed: {value} ", 1))
    with pytest.raises(ConfigError, match=r"params: seed|more than 64 bits") as caught:
        load_config(path, ["data.name=synthetic"])
    assert len(str(caught.value)) < 400
