"""The exported item encoder reads raw content exactly as the transform does."""

import math
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos.feature_schema_pb2 import Feature, FeatureSchema
from tests.trainer.exported import ServedModel
from tests.trainer.pictures import BLUE, RED, file_of, plain
from tests.trainer.worlds import checkerboard_catalogue
from trainer.config import ContentConfig, RetrievalConfig
from trainer.content_encoders import ContentEncoder, load_encoders, save_image_encoder
from trainer.data import Catalogue, Words
from trainer.item_encoder_module import ItemEncoderModule, category_prefixes, normalised, tokens
from trainer.retrieval import RetrievalModel
from trainer.string_tables import write_asset
from transform import vocabularies
from transform.feature_schema import TEXT_CHARACTERS, Vocabulary, tokenize, write_vocabulary

DIM, LENGTH = 8, 5
WORDS = {
    "category": ["Kleidung", "Kleidung > Hosen", "Schuhe"],
    "brand": ["Müller & Söhne", "acme"],
    "attributes": ["colour=red", "size=L"],
    "title": ["red", "shoe", "größe", "42"],
    "description": ["soft", "leather", "word"],
}


def feature(name: str, kind: "Feature.Kind", length: int = 1) -> Feature:
    return Feature(
        name=name,
        kind=kind,
        vocabulary=f"{name}.txt" if name in WORDS else "",
        vocabulary_size=2 + len(WORDS.get(name, [])),
        length=length,
        mean=2.0,
        stddev=0.5,
    )


SCHEMA = FeatureSchema(
    item=[
        feature("category", Feature.CATEGORICAL, 3),
        feature("brand", Feature.CATEGORICAL),
        feature("attributes", Feature.CATEGORICAL, 2),
        feature("price", Feature.NUMERIC),
        feature("title", Feature.TEXT, LENGTH),
        feature("description", Feature.TEXT, LENGTH),
        feature("image", Feature.VECTOR, 3),
    ],
    catalogue_size=5,
    id_embedding_size=4,
    has_timestamps=True,
)
# Raw content of the products in rows 2, 3 and 4.
TITLES = ["Red shoe, GRÖSSE 42!", "", "unheard-of words"]
# The second goes on for longer than is read.
DESCRIPTIONS = ["Soft LEATHER.", "\u0301" * (TEXT_CHARACTERS - 4) + "soft leather", ""]
CATEGORIES = ["Kleidung > Hosen > Jeans", "Schuhe", ""]
BRANDS = ["acme", "", "Müller & Söhne"]
ATTRIBUTES = [["colour=red", "size=L"], ["size=XXL"], []]
PRICES = [9.99, math.nan, 0.01]


CUT = [text[:TEXT_CHARACTERS] for text in DESCRIPTIONS]
SOFT = {"description": ["soft leather"]}
IMAGES = [file_of(plain(RED)), b"", file_of(plain(BLUE), "JPEG")]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ContentEncoder]:
    """Of pictures: a network of one convolution."""
    folder = tmp_path_factory.mktemp("content")
    layers = [tf_keras.layers.Conv2D(3, 5, input_shape=(16, 16, 3)), tf_keras.layers.GlobalMaxPooling2D()]
    network = tf_keras.Sequential(layers)
    save_image_encoder(folder, network, [network], "a test", ContentConfig(image_height=16, image_width=16))
    return load_encoders(folder)


def read_by_the_transform(encoders: dict[str, ContentEncoder]) -> dict[str, np.ndarray]:
    """Features of all rows, as the transform's own functions and the batch encoder make them."""

    def ids(name: str, lists: pa.ListArray, length: int) -> np.ndarray:
        column = vocabularies.content_ids(lists, Vocabulary(WORDS[name]), length)
        dense = np.zeros([5, length], np.int32)
        for place in range(3):
            own = column.values[column.offsets[place] : column.offsets[place + 1]]
            dense[2 + place, : len(own)] = own
        return dense

    prices = np.full([5, 1], np.nan, np.float32)
    prices[2:, 0] = vocabularies.normalised_price(np.array(PRICES, np.float32), 2.0, 0.5)
    brands = pa.array([[brand] if brand else [] for brand in BRANDS])
    return {
        "category": ids("category", vocabularies.category_prefixes(pa.array(CATEGORIES), 3), 3),
        "brand": ids("brand", brands, 1),
        "attributes": ids("attributes", pa.array(ATTRIBUTES, pa.list_(pa.string())), 2),
        "price": prices,
        "title": ids("title", tokenize(pa.array(TITLES)), LENGTH),
        "description": ids("description", tokenize(pa.array(CUT)), LENGTH),
        "image": np.concatenate([np.full([2, 3], np.nan, np.float32), encoders["image"].vectors(IMAGES)]),
    }


@pytest.fixture(scope="module")
def catalogue(encoders: dict[str, ContentEncoder]) -> Catalogue:
    none = np.zeros(5, np.int64)
    empty = np.full(5, "", object)
    titles, descriptions = (np.array(["", "", *texts], dtype=object) for texts in (TITLES, CUT))
    return Catalogue(
        schema=SCHEMA,
        item_ids=np.array(["", "\x01", "a", "b", "c"], dtype=object),
        # Product c is too rare for an embedding of its own.
        id_rows=np.array([0, 1, 2, 3, 1], np.int32),
        features=read_by_the_transform(encoders),
        train_counts=none,
        known_from=none,
        available=np.array([False, False, True, True, True]),
        titles=titles,
        categories=empty,
        prices=np.full(5, np.nan, np.float32),
        images=[b"", b"", *IMAGES],
        words={
            name: Words.of(texts, Vocabulary(WORDS[name]), LENGTH)
            for name, texts in (("title", titles), ("description", descriptions))
        },
    )


@pytest.fixture(scope="module")
def model(catalogue: Catalogue) -> RetrievalModel:
    tf.keras.utils.set_random_seed(5)
    model = RetrievalModel(catalogue, RetrievalConfig(dim=DIM, history_length=4, heads=2))
    for weight in model.trainable_variables:
        weight.assign_add(tf.random.normal(weight.shape, stddev=0.3))
    return model


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vocabularies")
    files = {}
    for name, words in (WORDS | {"item_ids": ["a", "b", "c"]}).items():
        write_vocabulary(folder / f"{name}.txt", words)
        files[f"{name}.txt"] = write_asset(folder / f"{name}.txt", folder / "assets")
    return files


@pytest.fixture(scope="module")
def served(
    catalogue: Catalogue,
    model: RetrievalModel,
    encoders: dict[str, ContentEncoder],
    assets: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> ServedModel:
    folder = tmp_path_factory.mktemp("encoder")
    module = ItemEncoderModule(model, SCHEMA, catalogue.id_rows, assets, encoders)
    tf.saved_model.save(module, str(folder / "model"), signatures=module.functions)
    return ServedModel(folder / "model")


def raw_content() -> dict[str, object]:
    attributes = [values + [""] * (2 - len(values)) for values in ATTRIBUTES]
    return {
        "title": TITLES,
        "description": DESCRIPTIONS,
        "category": CATEGORIES,
        "brand": BRANDS,
        "attributes": attributes,
        "price": PRICES,
        "image": IMAGES,
    }


def test_content_alone_gives_the_vector_of_a_product_without_an_id(served: ServedModel, model: RetrievalModel) -> None:
    embedding = served("serving_default", **raw_content())["embedding"]
    features = model.products.features(tf.constant([2, 3, 4]))
    expected = model.project_items(model.item_encoder.encode(features, tf.ones([3], tf.int32)))
    np.testing.assert_allclose(embedding, expected, atol=1e-6)


def test_known_product_gets_the_vector_that_the_index_holds(served: ServedModel, model: RetrievalModel) -> None:
    embedding = served("serving_default", **raw_content(), item_id=["a", "b", "c"])["embedding"]
    np.testing.assert_allclose(embedding, model.candidate_embeddings(tf.constant([2, 3, 4])), atol=1e-6)


def test_unknown_product_is_placed_by_its_content(served: ServedModel) -> None:
    stranger = served("serving_default", **raw_content(), item_id=["x", "", "\x01"])["embedding"]
    np.testing.assert_array_equal(stranger, served("serving_default", **raw_content())["embedding"])


def test_words_of_the_catalogue_are_those_of_the_transform(catalogue: Catalogue) -> None:
    words = catalogue.words["title"]
    np.testing.assert_array_equal(words.ids[words.places], catalogue.features["title"])


def test_unknown_words_are_told_apart_by_their_letters(served: ServedModel) -> None:
    shoes, mice = served("serving_default", title=["shoelaces shoehorn", "mousetrap"])["embedding"]
    assert np.abs(shoes - mice).max() > 1e-3


def test_title_alone_is_enough(served: ServedModel) -> None:
    embedding = served("serving_default", title=["red shoe", "größe 42"])["embedding"]
    assert embedding.shape == (2, DIM)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)


def test_a_picture_moves_a_product_and_an_unreadable_one_does_not(served: ServedModel) -> None:
    title = ["red shoe"] * 3
    red, none, broken = served("serving_default", title=title, image=[IMAGES[0], b"", IMAGES[0][:40]])["embedding"]
    assert np.abs(red - none).max() > 1e-3
    np.testing.assert_array_equal(broken, none)


def test_a_feature_without_its_encoder_is_an_error(model: RetrievalModel, catalogue: Catalogue) -> None:
    with pytest.raises(ValueError, match="each VECTOR feature needs an encoder, received none for image"):
        ItemEncoderModule(model, SCHEMA, catalogue.id_rows, {})


@pytest.mark.parametrize("price", [math.nan, math.inf, -1.0, 0.0])
def test_price_that_is_none_counts_as_absent(served: ServedModel, price: float) -> None:
    odd = served("serving_default", title=["red shoe"], price=[price])["embedding"]
    np.testing.assert_array_equal(odd, served("serving_default", title=["red shoe"])["embedding"])


def test_a_description_says_something(served: ServedModel) -> None:
    soft, none = (served("serving_default", title=["red shoe"], **more)["embedding"] for more in (SOFT, {}))
    assert np.abs(soft - none).max() > 1e-3


@pytest.mark.parametrize(
    "odd",
    [
        {"title": [""]},
        {"title": ["Красный ботинок"]},
        {"title": ["红色鞋子"]},
        {"title": ["حذاء أحمر"]},
        {"title": ["\U0001f642\u200d\ufe0f\U0001f45f"]},
        {"title": ["re\u0301d\u200bsho\u0308e\u0000"]},
        {"title": ["red shoe"], "description": ["word " * 2_000]},
        {"title": ["word" * 2_500]},
        {"title": ["red shoe"], "price": [0.0]},
        {"title": ["red shoe"], "category": ["Hüte > Mützen"], "brand": ["nobody"]},
        {"title": [b"\xff\xfe red \xc3"], "description": [b"\x80"]},
    ],
    ids=str,
)
def test_odd_content_is_embedded_by_what_there_is(served: ServedModel, odd: dict[str, list]) -> None:
    embedding = served("serving_default", **odd)["embedding"]
    assert np.isfinite(embedding).all()
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["title", "description"])
def test_what_follows_the_first_characters_is_not_read(served: ServedModel, name: str) -> None:
    start = "ü" * (TEXT_CHARACTERS - 5) + " soft"
    whole, cut = (
        served("serving_default", **({"title": ["red"]} | {name: [text]}))["embedding"]
        for text in (start + "er leather", start)
    )
    np.testing.assert_array_equal(whole, cut)


def test_catalogue_without_content_still_exports_an_encoder(tmp_path: Path) -> None:
    catalogue = checkerboard_catalogue(content=False)
    model = RetrievalModel(catalogue, RetrievalConfig(dim=DIM, history_length=4, heads=2))
    write_vocabulary(tmp_path / "item_ids.txt", list(catalogue.item_ids[2:]))
    assets = {"item_ids.txt": write_asset(tmp_path / "item_ids.txt", tmp_path / "assets")}
    module = ItemEncoderModule(model, catalogue.schema, catalogue.id_rows, assets)
    encode = module.functions["serving_default"]
    known, unknown = (
        encode(tf.constant(["red"]), item_id=tf.constant([item]))["embedding"] for item in ("black-3", "")
    )
    np.testing.assert_allclose(known, model.candidate_embeddings(tf.constant([3])), atol=1e-6)
    np.testing.assert_allclose(unknown, model.candidate_embeddings(tf.constant([1])), atol=1e-6)


# Capitals that Unicode 14 added: TensorFlow knows their lower case, Arrow does not yet. (Letters of Unicode 15, which
# Python 3.11 does not know, are separators for Arrow.)
NEW_CAPITALS = "\u2c2f\ua7c0\ua7d0\ua7d6\ua7d8" + "".join(map(chr, range(0x10570, 0x10596)))
CHARACTERS = st.characters(codec="utf-8", exclude_categories=("Cn", "Cs"), exclude_characters=NEW_CAPITALS)
# Letters that tempt a tokeniser.
ODD = st.sampled_from(
    ["İ", "Σ", "ς", "ß", "ẞ", "Ǆ", "ﬁ", "é", "Ⅷ", "١", "中", "🙂", " ", "-", "_", "'", "\x00", "\u00a0"]
)
TEXT = st.lists(st.one_of(ODD, CHARACTERS), max_size=30).map("".join)


TEXTS = [tf.TensorSpec([None], tf.string)]
graph_tokens = tf.function(lambda texts: tokens(texts, 40), input_signature=TEXTS, autograph=False)
graph_prefixes = tf.function(lambda paths: category_prefixes(paths, 3), input_signature=TEXTS, autograph=False)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(TEXT, min_size=1, max_size=8))
def test_graph_makes_the_tokens_of_the_transform(texts: list[str]) -> None:
    made = graph_tokens(tf.constant([text.encode() for text in texts])).numpy()
    expected = tokenize(pa.array(texts)).to_pylist()
    assert [[token.decode() for token in line if token] for line in made] == expected


def test_graph_reads_every_character_as_the_transform_does() -> None:
    known = [
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(character) not in ("Cn", "Cs") and character not in NEW_CAPITALS
    ]
    made = graph_tokens(tf.constant([character.encode() for character in known])).numpy()[:, 0]
    expected = tokenize(pa.array(known)).to_pylist()
    assert [token.decode() for token in made] == ["".join(tokens) for tokens in expected]


@settings(max_examples=100)
@given(st.lists(st.lists(st.sampled_from(["A", "b", "", ">", " > ", "Ä"]), max_size=6).map(" > ".join), min_size=1))
def test_graph_makes_the_category_prefixes_of_the_transform(paths: list[str]) -> None:
    made = graph_prefixes(tf.constant([path.encode() for path in paths])).numpy()
    expected = vocabularies.category_prefixes(pa.array(paths), 3).to_pylist()
    for line, prefixes in zip(made, expected, strict=True):
        assert [value.decode() for value in line] == prefixes + [""] * (3 - len(prefixes))


@settings(max_examples=100)
@given(st.lists(st.floats(2**-20, 1e9, width=32), min_size=1))
def test_graph_normalises_prices_as_the_transform_does(prices: list[float]) -> None:
    values = np.array(prices, np.float32)
    made = normalised(tf.constant(values), 2.0, 0.5).numpy()[:, 0]
    np.testing.assert_allclose(made, vocabularies.normalised_price(values, 2.0, 0.5), rtol=1e-6)


def test_behaviour_is_known_of_the_products_that_the_catalogue_knows(
    catalogue: Catalogue, encoders: dict[str, ContentEncoder], assets: dict[str, Path]
) -> None:
    schema = FeatureSchema()
    schema.CopyFrom(SCHEMA)
    schema.item.append(Feature(name="behaviour", kind=Feature.VECTOR, length=5))
    behaviour = np.random.default_rng(2).normal(size=(5, 5)).astype(np.float32)
    behaviour[:2] = np.nan
    shop = replace(catalogue, schema=schema, features={**catalogue.features, "behaviour": behaviour})
    model = RetrievalModel(shop, RetrievalConfig(dim=8, heads=1, history_length=4))
    for weight in model.trainable_variables:
        weight.assign_add(tf.random.stateless_normal(weight.shape, [1, 2], stddev=0.3))
    module = ItemEncoderModule(model, schema, shop.id_rows, assets, encoders, behaviour)
    raw = {name: tf.constant(values) for name, values in raw_content().items()}
    known = module.encode(**raw, item_id=tf.constant(["a", "b", "c"]))["embedding"]
    np.testing.assert_allclose(known, model.candidate_embeddings(tf.range(2, 5)), atol=1e-5)
    unknown = module.encode(**raw, item_id=tf.constant(["", "x", "y"]))["embedding"]
    features = model.products.features(tf.range(2, 5)) | {"behaviour": tf.fill([3, 5], np.nan)}
    expected = model.project_items(model.item_encoder.encode(features, tf.ones([3], tf.int32)))
    np.testing.assert_allclose(unknown, expected, atol=1e-5)
