"""models.config: what is read from it, and the sentences about what can't be."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.errors import ServingError
from serving.model_config import (
    AllVersions,
    LatestVersions,
    ModelConfig,
    SpecificVersions,
    check_model_dir,
    model_configs_for,
    parse_models,
    read_model_server_config,
    version_directories,
)


def models(fields: str) -> list[ModelConfig]:
    text = f"model_config_list {{ config {{ {fields} }} }}"
    return parse_models(text_format.Parse(text, ModelServerConfig()))


def shop(policy: str) -> ModelConfig:
    (model,) = models(f'name: "shop" base_path: "/m/shop" model_platform: "tensorflow" {policy}')
    return model


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", LatestVersions(1)),
        ("model_version_policy { latest { num_versions: 2 } }", LatestVersions(2)),
        ("model_version_policy { latest { } }", LatestVersions(1)),
        ("model_version_policy { all { } }", AllVersions()),
        ("model_version_policy { specific { versions: 3 versions: 5 } }", SpecificVersions(frozenset({3, 5}))),
    ],
)
def test_policy_is_read(policy: str, expected: object) -> None:
    assert shop(policy) == ModelConfig("shop", Path("/m/shop"), expected)


def test_labels_are_read() -> None:
    model = shop('version_labels { key: "stable" value: 3 } version_labels { key: "canary" value: 4 }')
    assert model.labels == {"stable": 3, "canary": 4}


def test_latest_takes_the_highest_numbers() -> None:
    assert LatestVersions(2).choose([3, 100, 20]) == {20, 100}


def test_all_takes_everything() -> None:
    assert AllVersions().choose([3, 1]) == {1, 3}


def test_specific_takes_what_is_there() -> None:
    assert SpecificVersions(frozenset({3, 5})).choose([1, 3]) == {3}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ('base_path: "/m" model_platform: "tensorflow"', "A model without a name"),
        ('name: "a" base_path: "/m" model_platform: "onnx"', 'model_platform must be "tensorflow", received "onnx"'),
        (
            'name: "a" base_path: "m" model_platform: "tensorflow"',
            "model a to have an absolute path; got base_path 'm'",
        ),
        (
            'name: "a" base_path: "/m" model_platform: "tensorflow" model_version_policy { specific { } }',
            "specific names no versions",
        ),
    ],
)
def test_rule_that_is_broken_is_named(fields: str, sentence: str) -> None:
    with pytest.raises(ServingError) as caught:
        models(fields)
    assert sentence in str(caught.value)


def test_one_name_for_two_models_is_refused() -> None:
    one = 'config { name: "a" base_path: "/m" model_platform: "tensorflow" }'
    config = text_format.Parse(f"model_config_list {{ {one} {one} }}", ModelServerConfig())
    with pytest.raises(ServingError, match="Illegal to list model a multiple times"):
        parse_models(config)


def test_empty_configuration_is_refused() -> None:
    with pytest.raises(ServingError, match="lists no model"):
        parse_models(ModelServerConfig())


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"models\.config: no such file"):
        read_model_server_config(tmp_path / "models.config")


def test_unknown_key_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text('model_config_list {\n  config { nam: "a" }\n}')
    with pytest.raises(ServingError, match=r'models\.config: not a ModelServerConfig in text form: 2:12 .*"nam"'):
        read_model_server_config(path)


def test_export_folder_lists_its_models(tmp_path: Path) -> None:
    for folder in ("recommender/1", "item_encoder/20", "notes/draft"):
        (tmp_path / folder).mkdir(parents=True)
    assert parse_models(model_configs_for(tmp_path)) == [
        ModelConfig("item_encoder", tmp_path / "item_encoder"),
        ModelConfig("recommender", tmp_path / "recommender"),
    ]


def test_export_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"no model in it; expected <model>/<version>/saved_model\.pb"):
        model_configs_for(tmp_path)


def test_only_folders_named_with_an_integer_are_versions(tmp_path: Path) -> None:
    for folder in ("1", "20", "2.tmp", "latest", "-3", " 4"):
        (tmp_path / folder).mkdir()
    (tmp_path / "5").write_text("a file")
    assert sorted(version_directories(tmp_path)) == [1, 20]


def test_model_dir_with_a_saved_model_passes(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").touch()
    check_model_dir(tmp_path)


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        ([], "no such folder"),
        (["recommender"], "no version in it; expected a sub-folder named with an integer"),
        (["recommender/1"], "Could not find SavedModel .pb"),
    ],
)
def test_model_dir_without_a_model_gets_a_sentence(tmp_path: Path, folders: list[str], sentence: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ServingError) as caught:
        check_model_dir(tmp_path / "recommender")
    assert sentence in str(caught.value)
