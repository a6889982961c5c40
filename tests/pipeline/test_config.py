"""Configuration: read, overridden, refused with a sentence."""

from pathlib import Path

import pytest

from pipeline.config import SHIPPED, Config, ConfigError, load_config


def test_no_source_gives_the_shipped_defaults() -> None:
    assert load_config() == Config()


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_every_shipped_configuration_loads(name: str) -> None:
    assert load_config(name).name


def test_file_values_replace_defaults_and_leave_the_others(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text("ranker: {dim: 32}\ntransform: {history_types: [purchase]}\n")
    config = load_config(file)
    assert config.ranker.dim == 32
    assert config.transform.history_types == ("purchase",)
    assert config.retrieval == Config().retrieval


def test_overrides_reach_nested_keys_in_order() -> None:
    config = load_config(None, ["ranker.training.epochs=3", "ranker.training.epochs=4", "evaluation.exclude_seen=true"])
    assert config.ranker.training.epochs == 4
    assert config.evaluation.exclude_seen is True


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("ranker.epochs=3", "unknown key 'ranker.epochs'; the nearest known key is 'ranker.training.epochs'"),
        ("rankr.dim=3", "unknown key 'rankr'"),
        ("ranker.dim=0", "ranker.dim: Input should be greater than 0, received 0"),
        ("ranker.dim=wide", "ranker.dim: Input should be a valid integer"),
        ("transform.split.method=random", "'time' or 'leave_one_out', received 'random'"),
        ("transform.content_features=[title, colour]", "'title', 'description' or 'image', received 'colour'"),
        ("transform.max_image_side=0", "transform.max_image_side: Input should be greater than 0, received 0"),
        ("transfer.words=true", "unknown key 'transfer.words'"),
        ("ranker.dim", "--set needs key=value, received 'ranker.dim'"),
        ("name.first=x", "name: Input should be a valid string"),
        ("ranker.dim=[", "not valid YAML"),
    ],
)
def test_bad_overrides_are_refused_with_key_rule_and_value(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=r".*") as error:
        load_config(None, [override])
    assert sentence in str(error.value)


def test_content_features_may_be_chosen_or_none() -> None:
    assert load_config(None, ["transform.content_features=[]"]).transform.content_features == ()
    assert load_config(None, ["transform.content_features=[price]"]).transform.content_features == ("price",)


def test_trainings_start_from_one_thing() -> None:
    assert load_config(None, ["transfer.run=runs/other"]).transfer.text
    with pytest.raises(ConfigError, match=r"received both, 'runs/monday' and 'runs/other'. Leave one of them out"):
        load_config(None, ["transfer.run=runs/other", "warm_start=runs/monday"])
    with pytest.raises(ConfigError, match=r"transfer.run names 'runs/other', but nothing is to be taken from it"):
        load_config(None, ["transfer.run=runs/other", "transfer.text=false"])


def test_missing_file_names_the_shipped_configurations() -> None:
    with pytest.raises(ConfigError, match=r"neither a file nor one of the shipped ones: .*demo"):
        load_config("no-such.yaml")


def test_a_list_at_the_top_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="expected keys and values at the top level, received list"):
        load_config(file)
