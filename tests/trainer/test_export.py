"""The exported models: promised names, answers worked out a second time, nothing upstream needed."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tests.trainer.exported import ServedModel
from tests.trainer.test_newcomer_prior import with_newcomers
from tests.trainer.worlds import checkerboard_catalogue, checkerboard_sequences, write_transform
from trainer.candidate_features import Candidates, product_facts
from trainer.candidate_head import CandidateHead, save_head
from trainer.config import EvaluationConfig, ExportConfig, HeadConfig, RankerConfig, RetrievalConfig
from trainer.data import Catalogue, Sequences, load_catalogue, load_sequences
from trainer.errors import ExportError
from trainer.explanation import explain
from trainer.export import export
from trainer.index import ABSENT_SCORE
from trainer.model_files import save_model
from trainer.neighbours import neighbours_by_purchases, neighbours_by_sessions
from trainer.queries import build_queries, load_split
from trainer.ranker import Ranker
from trainer.ranking import candidate_rows, order_keys
from trainer.retrieval import RetrievalModel
from trainer.scorers import HeadScorer, RankerScorer, RetrievalScorer
from trainer.shortlist import make_shortlist
from trainer.target_value import type_shares
from trainer.warmup import WARMUP_FILE
from transform.logged_requests import SHOPPER_SIGNATURES
from transform.tables import EVENT_TYPES

L, K, C, X, D, E = 8, 6, 10, 4, 8, 3
# Products of the checkerboard that training never met.
NEW = (24, 25)
# Widths of filters: values, products of an allow-list, lists of a page and products of each.
F, A, N, P = 2, 4, 2, 3
CONFIG = ExportConfig(
    k=K,
    candidates=C,
    exclude_length=X,
    explained_candidates=E,
    recall_queries=20,
    filter_values=F,
    allow_length=A,
    lists=N,
    list_length=P,
    list_candidates=7,
)
# Never met in training: the catalogue's last products.
STRANGER = "sold-by-someone-else"


class World:
    """A shop, three models that have learned nothing, and where their export is."""

    def __init__(
        self,
        folder: Path,
        unavailable: tuple[int, ...] = (),
        sequences: Sequences | None = None,
        categories: bool = True,
    ) -> None:
        catalogue = checkerboard_catalogue()
        if not categories:
            catalogue = replace(catalogue, categories=np.full(catalogue.size, "", dtype=object))
        available = catalogue.available.copy()
        available[list(unavailable)] = False
        self.folder, self.transform = folder, folder / "transform"
        write_transform(self.transform, replace(catalogue, available=available), sequences or checkerboard_sequences())
        self.catalogue: Catalogue = load_catalogue(self.transform)
        tf.keras.utils.set_random_seed(3)
        self.retrieval = RetrievalModel(self.catalogue, RetrievalConfig(dim=D, history_length=L, heads=2))
        self.ranker = Ranker(self.catalogue, RankerConfig(dim=D, history_length=L, heads=2, blocks=1))
        self.head = CandidateHead(self.catalogue, HeadConfig())
        for model in (self.retrieval, self.ranker, self.head):
            # Weights as they start are so small that nearly everything is a tie.
            for weight in model.trainable_variables:
                weight.assign_add(tf.random.normal(weight.shape, stddev=0.5))
        save_model(folder / "retrieval", "retrieval", self.retrieval, self.retrieval.config, self.catalogue.schema)
        save_head(folder / "head", self.head, self.catalogue)
        save_model(folder / "ranker", "ranker", self.ranker, self.ranker.config, self.catalogue.schema)

    def export(self, name: str, config: ExportConfig) -> Path:
        """The folder that the export wrote."""
        output = self.folder / name
        models = (self.folder / name for name in ("retrieval", "ranker", "head"))
        export(self.transform, *models, output, config, self.folder / "logs")
        return output

    def ids(self, *rows: int) -> list[str]:
        return [str(self.catalogue.item_ids[row]) for row in rows]

    def batch(self, rows: Sequence[int], moment: int = 0) -> dict[str, tf.Tensor]:
        """What the models take of a history that tells products alone."""
        history = np.zeros([1, L], np.int32)
        history[0, L - len(rows) :] = rows
        return {
            "history_rows": tf.constant(history),
            "history_types": tf.constant(np.where(history > 0, EVENT_TYPES["view"], 0).astype(np.int32)),
            "history_timestamps": tf.zeros([1, L], tf.int64),
            "context_timestamp": tf.constant([moment], tf.int64),
            "context_device": tf.zeros([1], tf.int32),
            "context_region": tf.zeros([1], tf.int32),
        }

    def explained(self, rows: Sequence[int], candidates: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Attention [L] and attributions [C', L] by the ranker itself; the history stands at the right."""
        given = tf.constant([candidates])
        found = explain(self.ranker, self.batch(rows), self.ranker.item_table(), given, CONFIG.explanation_steps)
        return found.attention.numpy()[0], found.attributions.numpy()[0]

    def expected(
        self, rows: list[int], excluded: tuple[int, ...] = (), moment: int = 0
    ) -> tuple[list[str], np.ndarray]:
        """The K best of C candidates, worked out by numpy from the models."""
        batch = self.batch(rows, moment)
        everything = tf.range(self.catalogue.size)
        query = self.retrieval.query_embeddings(batch).numpy()[0]
        dots = self.retrieval.candidate_embeddings(everything).numpy() @ query
        dots[~self.catalogue.available] = -np.inf
        dots[list(excluded)] = -np.inf
        candidates = own_and_nearest(rows, dots)
        table = self.ranker.item_table()
        ranked = self.ranker.score_catalogue(self.ranker.encode(batch), table).numpy()[:, candidates]
        given = Candidates(tf.constant(candidates[None].astype(np.int32)), batch, table, product_facts(self.catalogue))
        scores = self.head(given, ranked, dots[None, candidates]).numpy()[0]
        best = np.argsort(-scores)[:K]
        return self.ids(*candidates[best]), scores[best]


def own_and_nearest(history: Sequence[int], dots: np.ndarray) -> np.ndarray:
    """The C candidates of stage one, nearest first: the newest products of the history, those that training never met
    (at most a quarter), and the nearest others."""
    new = sorted(NEW, key=lambda row: -dots[row])[: C // 4]
    kept = [row for row in dict.fromkeys([*history[-(C // 2) :], *new]) if np.isfinite(dots[row])]
    others = [row for row in np.argsort(-dots) if row not in kept]
    candidates = np.array([*kept, *others[: C - len(kept)]])
    return candidates[np.argsort(-dots[candidates])]


def padded(ids: list[str], width: int) -> list[str]:
    return ids + [""] * (width - len(ids))


def nothing(batch: int) -> dict[str, np.ndarray]:
    """Optional inputs that say nothing, for a batch of more than one."""
    return {
        "history_event_types": np.full([batch, L], "", dtype=object),
        "history_timestamps": np.zeros([batch, L], np.int64),
        "context_timestamp": np.zeros([batch], np.int64),
        "context_device": np.full([batch], "", dtype=object),
        "context_region": np.full([batch], "", dtype=object),
        "user_embedding": np.zeros([batch, D], np.float32),
        "user_state": np.zeros([batch, D + L], np.float32),
        "blend": np.zeros([batch], np.float32),
        "target_weights": np.zeros([batch, 2], np.float32),
        "exclude_item_ids": np.full([batch, X], "", dtype=object),
    }


def names(answer: dict[str, np.ndarray]) -> list[list[str]]:
    return [[value.decode() for value in line] for line in answer["item_ids"]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def output(world: World) -> Path:
    return world.export("export", CONFIG)


@pytest.fixture(scope="module")
def served(output: Path) -> ServedModel:
    return ServedModel(output / "recommender")


HISTORY = (3, 5, 8, 13)


def test_signatures_are_those_promised(served: ServedModel) -> None:
    def described(infos: dict) -> dict[str, tuple[str, list[int]]]:
        return {
            name: (tf.as_dtype(info.dtype).name, [dim.size for dim in info.tensor_shape.dim])
            for name, info in infos.items()
        }

    optional = {
        "history_event_types": ("string", [-1, L]),
        "history_timestamps": ("int64", [-1, L]),
        "context_timestamp": ("int64", [-1]),
        "context_device": ("string", [-1]),
        "context_region": ("string", [-1]),
        "user_embedding": ("float32", [-1, D]),
        "user_state": ("float32", [-1, D + L]),
        "blend": ("float32", [-1]),
        "target_weights": ("float32", [-1, 2]),
        "exclude_item_ids": ("string", [-1, X]),
    }
    history = {"history_item_ids": ("string", [-1, L])}
    answer = {"item_ids": ("string", [-1, K]), "scores": ("float32", [-1, K])}
    candidates = {"item_ids": ("string", [-1, C]), "scores": ("float32", [-1, C])}
    filters = {
        "filter_categories": ("string", [-1, F]),
        "filter_brands": ("string", [-1, F]),
        "filter_price_min": ("float32", [-1]),
        "filter_price_max": ("float32", [-1]),
        "allow_item_ids": ("string", [-1, A]),
        "include_unavailable": ("bool", [-1]),
    }
    lists = {
        "list_names": ("string", [-1, N]),
        "list_categories": ("string", [-1, N]),
        "list_brands": ("string", [-1, N]),
        "list_price_min": ("float32", [-1, N]),
        "list_price_max": ("float32", [-1, N]),
    }
    page = {"item_ids": ("string", [-1, N, P]), "scores": ("float32", [-1, N, P])}
    promised = {
        "serving_default": (history | optional, answer),
        "recommend": (history | optional, answer),
        "retrieve": (history | optional, candidates),
        "rank": (history | optional | {"candidate_item_ids": ("string", [-1, C])}, candidates),
        "similar_items": (history | optional | {"item_ids": ("string", [-1])}, answer),
        "complementary_items": (history | optional | {"item_ids": ("string", [-1])}, answer),
        "recommend_filtered": (history | optional | filters, answer),
        "retrieve_filtered": (history | optional | filters, candidates),
        "recommend_lists": (history | optional | lists, page),
        "embed_user": (history | optional, {"embedding": ("float32", [-1, D]), "state": ("float32", [-1, D + L])}),
        "explain": (
            history | optional | {"candidate_item_ids": ("string", [-1, E])},
            {"attention": ("float32", [-1, L]), "attributions": ("float32", [-1, E, L])},
        ),
    }
    found = {
        name: (described(definition.inputs), described(definition.outputs))
        for name, definition in served.signatures.items()
    }
    assert found == promised


@pytest.mark.parametrize("signature", ["recommend", "serving_default", "retrieve", "rank", "embed_user", "explain"])
def test_optional_inputs_have_defaults_of_batch_size_one(served: ServedModel, signature: str) -> None:
    definition = served.signatures[signature]
    defaults = {name: tf.make_ndarray(proto) for name, proto in definition.defaults.items()}
    assert set(defaults) == set(definition.inputs) - {"history_item_ids", "candidate_item_ids"}
    for name, value in defaults.items():
        _, *sizes = [dim.size for dim in definition.inputs[name].tensor_shape.dim]
        assert list(value.shape) == [1, *sizes]
        assert not np.any(value.astype(bool)), f"{name}: nothing is the default"


def test_the_reader_of_logged_requests_knows_all_that_need_a_history(served: ServedModel) -> None:
    needing = {name for name, definition in served.signatures.items() if "history_item_ids" not in definition.defaults}
    assert needing | {""} == SHOPPER_SIGNATURES


def test_metadata_can_be_read_from_json(served: ServedModel) -> None:
    for definition in served.signatures.values():
        assert json_format.Parse(json_format.MessageToJson(definition), SignatureDef()) == definition


@pytest.mark.parametrize("signature", ["similar_items", "complementary_items"])
def test_lists_beside_a_product_can_do_without_a_history(served: ServedModel, signature: str) -> None:
    assert "history_item_ids" in served.signatures[signature].defaults
    assert "item_ids" not in served.signatures[signature].defaults


def test_recommend_is_the_two_stages_one_after_the_other(world: World, served: ServedModel) -> None:
    answer = served("recommend", history_item_ids=[padded(world.ids(*HISTORY), L)])
    ids, scores = world.expected(list(HISTORY))
    assert names(answer) == [ids]
    np.testing.assert_allclose(answer["scores"][0], scores, rtol=1e-4, atol=1e-5)


def test_serving_default_is_recommend(world: World, served: ServedModel) -> None:
    history = [padded(world.ids(*HISTORY), L)]
    first, second = (served(name, history_item_ids=history) for name in ("recommend", "serving_default"))
    assert names(first) == names(second)


def test_time_of_the_request_is_read(world: World, served: ServedModel) -> None:
    history = [padded(world.ids(*HISTORY), L)]
    answer = served("recommend", history_item_ids=history, context_timestamp=[1_700_000_000])
    assert names(answer) == [world.expected(list(HISTORY), moment=1_700_000_000)[0]]


def test_padding_may_stand_anywhere(world: World, served: ServedModel) -> None:
    a, b, c, d = world.ids(*HISTORY)
    places = [[a, b, c, d, "", "", "", ""], ["", "", "", "", a, b, c, d], ["", a, "", b, c, "", "", d]]
    kinds = [["view" if item else "" for item in line] for line in places]
    times = [[0 if not item else 100 + len(item) for item in line] for line in places]
    answer = served(
        "recommend",
        history_item_ids=places,
        history_event_types=kinds,
        history_timestamps=times,
    )
    assert names(answer)[0] == names(answer)[1] == names(answer)[2]
    np.testing.assert_allclose(answer["scores"], answer["scores"][[0, 0, 0]], rtol=1e-5)


def test_order_of_the_history_matters(world: World, served: ServedModel) -> None:
    ids = world.ids(*HISTORY)
    answer = served("embed_user", history_item_ids=[padded(ids, L), padded(ids[::-1], L)])
    assert np.abs(answer["embedding"][0] - answer["embedding"][1]).max() > 1e-3


def test_event_type_is_read_by_its_name_in_any_case(world: World, served: ServedModel) -> None:
    history = [padded(world.ids(*HISTORY), L)]

    def embedding(kind: str) -> np.ndarray:
        return served("embed_user", history_item_ids=history, history_event_types=[[kind] * L])["embedding"]

    assert np.abs(embedding("purchase") - embedding("view")).max() > 1e-3
    np.testing.assert_array_equal(embedding("PURCHASE"), embedding("purchase"))


@pytest.mark.parametrize("kind", ["", "click", "impression", "Kauf"])
def test_event_type_never_met_counts_as_the_most_frequent(world: World, served: ServedModel, kind: str) -> None:
    history = [padded(world.ids(*HISTORY), L)]
    kinds = [[kind] * L, ["view"] * L]
    answer = served("embed_user", history_item_ids=history * 2, history_event_types=kinds)
    np.testing.assert_allclose(answer["embedding"][0], answer["embedding"][1], atol=1e-6)


def test_context_is_read_by_its_name(world: World, served: ServedModel) -> None:
    history = [padded(world.ids(*HISTORY), L)] * 3
    answer = served("embed_user", history_item_ids=history, context_region=["region-2", "region-3", "Mars"])
    one, two, unknown = answer["embedding"]
    assert np.abs(one - two).max() > 1e-3
    assert np.isfinite(unknown).all()


def test_empty_history_is_answered_by_popularity(world: World, served: ServedModel) -> None:
    answer = served("recommend", history_item_ids=[[""] * L])
    rows = [world.catalogue.item_ids.tolist().index(item) for item in names(answer)[0]]
    counts = np.zeros(world.catalogue.size)
    sequences = checkerboard_sequences()
    for user, start in enumerate(sequences.offsets[:-1]):
        counts[sequences.rows[start : start + sequences.train_end[user]]] += 1
    assert counts[rows].tolist() == np.sort(counts)[::-1][:K].tolist()
    assert np.isfinite(answer["scores"]).all()
    assert (np.diff(answer["scores"][0]) <= 0).all()


def test_unknown_products_are_no_error(world: World, served: ServedModel) -> None:
    answer = served("recommend", history_item_ids=[[STRANGER] * L])
    assert len(set(names(answer)[0]) - {""}) == K
    assert np.isfinite(answer["scores"]).all()
    assert names(answer) == [world.expected([1] * L)[0]]


@pytest.mark.parametrize("signature", ["recommend", "retrieve"])
def test_excluded_products_never_shorten_the_answer(world: World, served: ServedModel, signature: str) -> None:
    history = [padded(world.ids(*HISTORY), L)]
    full = names(served(signature, history_item_ids=history))[0]
    without = names(served(signature, history_item_ids=history, exclude_item_ids=[full[:X]]))[0]
    assert not set(without) & set(full[:X])
    assert len(set(without) - {""}) == len(full)


def test_answer_without_the_excluded_is_the_two_stages_without_them(world: World, served: ServedModel) -> None:
    excluded = (4, 9, 12)
    answer = served(
        "recommend",
        history_item_ids=[padded(world.ids(*HISTORY), L)],
        exclude_item_ids=[padded(world.ids(*excluded), X)],
    )
    assert names(answer) == [world.expected(list(HISTORY), excluded)[0]]


def test_excluding_unknown_products_changes_nothing(world: World, served: ServedModel) -> None:
    history = [padded(world.ids(*HISTORY), L)]
    plain = served("recommend", history_item_ids=history)
    assert names(plain) == names(served("recommend", history_item_ids=history, exclude_item_ids=[[STRANGER] * X]))


@pytest.mark.parametrize("signature", ["recommend", "retrieve", "recommend_filtered"])
def test_shopper_that_the_caller_holds_is_not_encoded_again(world: World, served: ServedModel, signature: str) -> None:
    history = {"history_item_ids": [padded(world.ids(*HISTORY), L)]}
    known = served("embed_user", **history)
    held = {"user_embedding": known["embedding"], "user_state": known["state"]}
    plain, again = served(signature, **history), served(signature, **history, **held)
    assert names(plain) == names(again)
    np.testing.assert_allclose(plain["scores"], again["scores"], atol=1e-5)
    # What is given is what is read: another shopper's vector and state lead elsewhere.
    other = served("embed_user", history_item_ids=[padded(world.ids(4, 6), L)])
    held = {"user_embedding": other["embedding"], "user_state": other["state"]}
    assert np.abs(served(signature, **history, **held)["scores"] - plain["scores"]).max() > 1e-3


def test_batch_in_which_one_shopper_is_not_held_is_encoded_whole(world: World, served: ServedModel) -> None:
    history = [padded(world.ids(*HISTORY), L), padded(world.ids(4, 6), L)]
    known = served("embed_user", **nothing(2) | {"history_item_ids": history})
    half = {"user_embedding": known["embedding"] * [[1], [0]], "user_state": known["state"] * [[1], [0]]}
    plain = served("recommend", **nothing(2) | {"history_item_ids": history})
    mixed = served("recommend", **nothing(2) | half | {"history_item_ids": history})
    assert names(plain) == names(mixed)


def test_blend_is_the_caller_s_to_shift(world: World, served: ServedModel) -> None:
    """From −1, without the ranker, over 0, as it was trained, to 1, without the retrieval; terms of the head add up."""
    request = {
        "history_item_ids": [padded(world.ids(*HISTORY), L)],
        "candidate_item_ids": [world.ids(*range(2, 2 + C))],
    }

    def scores(**blend: np.ndarray) -> dict[str, float]:
        answer = served("rank", **request, **blend)
        return dict(zip(names(answer)[0], answer["scores"][0].tolist(), strict=True))

    trained, no_ranker, no_retrieval = (scores(blend=np.float32([shift])) for shift in (0, -1, 1))
    assert scores() == trained
    half = scores(blend=np.float32([0.5]))
    assert scores(blend=np.float32([7])) == no_retrieval, "cut at 1"
    assert np.std([no_ranker[item] - trained[item] for item in trained]) > 1e-2
    for item, score in trained.items():
        assert half[item] == pytest.approx((score + no_retrieval[item]) / 2, abs=1e-4)


def test_what_an_event_is_worth_is_the_caller_s_to_say(world: World, served: ServedModel, output: Path) -> None:
    request = {
        "history_item_ids": [padded(world.ids(*HISTORY), L)],
        "candidate_item_ids": [world.ids(*range(2, 2 + C))],
    }
    metadata = json.loads((output / "recommender" / "assets.extra" / "tandem.json").read_text())
    assert metadata["targets"] == ["view", "purchase"]

    def scores(**weights: np.ndarray) -> dict[str, float]:
        answer = served("rank", **request, **weights)
        return dict(zip(names(answer)[0], answer["scores"][0].tolist(), strict=True))

    shares = type_shares(
        load_sequences(world.transform), world.catalogue.size, [EVENT_TYPES["view"], EVENT_TYPES["purchase"]]
    )
    plain, sold = scores(), scores(target_weights=np.float32([[0, 3]]))
    assert scores(target_weights=np.float32([[2, 2]])) == pytest.approx(plain, abs=1e-5), "equal weights change nothing"
    for row in range(2, 2 + C):
        item = world.ids(row)[0]
        assert sold[item] - plain[item] == pytest.approx(np.log(shares[row, 1] / shares[0, 1]), abs=1e-4)


def test_filtered_answer_is_the_ranker_s_order_of_what_passes(world: World, served: ServedModel) -> None:
    history = [padded(world.ids(*HISTORY), L)]
    brand = world.catalogue.brands[5]
    passing = np.flatnonzero(world.catalogue.brands == brand)
    answer = served(
        "recommend_filtered", history_item_ids=history, filter_brands=[[brand, ""]], filter_price_max=np.float32([20.0])
    )
    cheap = [row for row in passing if world.catalogue.prices[row] <= 20]
    assert 0 < len(cheap) < K
    assert sorted(names(answer)[0][: len(cheap)]) == sorted(world.ids(*cheap))
    assert names(answer)[0][len(cheap) :] == [""] * (K - len(cheap))
    ranked = served("rank", history_item_ids=history, candidate_item_ids=[padded(world.ids(*cheap), C)])
    assert names(ranked)[0][: len(cheap)] == names(answer)[0][: len(cheap)]
    np.testing.assert_allclose(answer["scores"][0, : len(cheap)], ranked["scores"][0, : len(cheap)], atol=1e-5)


def test_filter_that_is_not_given_restricts_nothing(world: World, served: ServedModel) -> None:
    history = [padded(world.ids(*HISTORY), L)]
    found = served("retrieve_filtered", history_item_ids=history)
    query = served("embed_user", history_item_ids=history)["embedding"][0]
    vectors = world.retrieval.candidate_embeddings(tf.range(world.catalogue.size)).numpy()
    dots = np.where(world.catalogue.available, vectors @ query, -np.inf)
    assert names(found)[0] == world.ids(*np.argsort(-dots)[:C])


def test_allow_list_is_all_that_is_answered(world: World, served: ServedModel) -> None:
    allowed = world.ids(9, 4)
    answer = served(
        "recommend_filtered",
        history_item_ids=[padded(world.ids(*HISTORY), L)],
        allow_item_ids=[padded([*allowed, STRANGER], A)],
    )
    assert sorted(names(answer)[0]) == sorted(padded(allowed, K))


def test_lists_of_a_page_are_filtered_and_share_no_product(world: World, served: ServedModel) -> None:
    colour = world.catalogue.categories[5]
    page = served(
        "recommend_lists",
        history_item_ids=[padded(world.ids(*HISTORY), L)],
        list_names=[["For you", "Of one colour"]],
        list_categories=[["", colour]],
    )
    first, second = ([item.decode() for item in line] for line in page["item_ids"][0])
    assert all(first)
    assert all(second)
    assert len({*first, *second}) == 2 * P
    assert all(item.startswith(colour) for item in second)
    assert (np.diff(page["scores"][0], axis=1) <= 0).all()


def test_page_takes_a_score_for_what_recommend_says(world: World, served: ServedModel) -> None:
    history = [padded(world.ids(*HISTORY), L)]
    page = served("recommend_lists", history_item_ids=history, list_names=[["For you", ""]])
    shown = [item.decode() for item in page["item_ids"][0, 0]]
    ranked = served("rank", history_item_ids=history, candidate_item_ids=[padded(shown, C)])
    assert names(ranked)[0][:P] == shown
    np.testing.assert_allclose(page["scores"][0, 0], ranked["scores"][0, :P], atol=1e-5)
    assert page["item_ids"][0, 1].tolist() == [b""] * P, "a list without a name is none"


def test_new_visitor_s_page_is_popular(world: World, served: ServedModel) -> None:
    page = served("recommend_lists", history_item_ids=[[""] * L], list_names=[["For you", ""]])
    popular = served("recommend", history_item_ids=[[""] * L])
    assert page["item_ids"][0, 0].tolist() == popular["item_ids"][0, :P].tolist()


def test_retrieve_is_the_own_products_and_the_nearest_by_dot_product(world: World, served: ServedModel) -> None:
    history = [padded(world.ids(*HISTORY), L)]
    query = served("embed_user", history_item_ids=history)["embedding"][0]
    vectors = world.retrieval.candidate_embeddings(tf.range(world.catalogue.size)).numpy()
    dots = np.where(world.catalogue.available, vectors @ query, -np.inf)
    answer = served("retrieve", history_item_ids=history)
    candidates = own_and_nearest(HISTORY, dots)
    assert set(HISTORY) - set(np.argsort(-dots)[:C]), "the history is not what is nearest anyway"
    assert names(answer) == [world.ids(*candidates)]
    np.testing.assert_allclose(answer["scores"][0], dots[candidates], atol=1e-5)


def test_rank_orders_the_candidates_given(world: World, served: ServedModel) -> None:
    history = [padded(world.ids(*HISTORY), L)]
    best, scores = world.expected(list(HISTORY))
    given = padded(best[::-1], C)
    answer = served("rank", history_item_ids=history, candidate_item_ids=[given])
    assert names(answer)[0][:K] == best
    np.testing.assert_allclose(answer["scores"][0, :K], scores, rtol=1e-4, atol=1e-5)


def test_rank_scores_as_the_evaluation_does(world: World, served: ServedModel) -> None:
    sequences = load_sequences(world.transform)
    queries = build_queries(
        sequences, world.catalogue, load_split(world.transform), "test", EvaluationConfig(), L
    ).take(np.arange(6))
    retrieval, ranker = (
        scorer.scores(queries, 0, 6) for scorer in (RetrievalScorer(world.retrieval, 8), RankerScorer(world.ranker, 8))
    )
    keys = order_keys(retrieval, queries.excluded(0, 6))
    rows = candidate_rows(keys, make_shortlist(world.catalogue, C, 20).kept(queries, 0, 6, keys), C)
    given = (np.take_along_axis(scores, rows, axis=1) for scores in (ranker, retrieval))
    expected = HeadScorer(world.head, world.ranker, world.catalogue, 8).scores(queries, 0, rows, *given)
    batch = queries.batch(0, 6)
    kinds = {number: name for name, number in EVENT_TYPES.items()} | {0: ""}
    answer = served(
        "rank",
        history_item_ids=world.catalogue.item_ids[batch["history_rows"]],
        candidate_item_ids=world.catalogue.item_ids[rows],
        history_event_types=[[kinds[kind] for kind in line] for line in batch["history_types"]],
        history_timestamps=batch["history_timestamps"],
        context_timestamp=batch["context_timestamp"],
        context_device=[f"device-{number}" for number in batch["context_device"]],
        context_region=[f"region-{number}" for number in batch["context_region"]],
    )
    order = np.argsort(-expected, axis=1)
    assert names(answer) == world.catalogue.item_ids[np.take_along_axis(rows, order, axis=1)].tolist()
    np.testing.assert_allclose(answer["scores"], np.take_along_axis(expected, order, axis=1), rtol=1e-4, atol=1e-4)


def test_rank_keeps_duplicates_and_names_unknown_products(world: World, served: ServedModel) -> None:
    given = [*world.ids(7, 7, 9), STRANGER]
    answer = served("rank", history_item_ids=[padded(world.ids(*HISTORY), L)], candidate_item_ids=[padded(given, C)])
    assert sorted(names(answer)[0]) == sorted(padded(given, C))
    assert names(answer)[0][4:] == [""] * (C - 4)
    assert (answer["scores"][0, :4] > ABSENT_SCORE).all()
    assert (answer["scores"][0, 4:] == ABSENT_SCORE).all()


def test_rank_puts_excluded_candidates_last(world: World, served: ServedModel) -> None:
    answer = served(
        "rank",
        history_item_ids=[padded(world.ids(*HISTORY), L)],
        candidate_item_ids=[padded(world.ids(7, 9, 11), C)],
        exclude_item_ids=[padded(world.ids(9), X)],
    )
    assert set(names(answer)[0][:2]) == set(world.ids(7, 11))
    assert answer["scores"][0, 2] == ABSENT_SCORE


def test_explain_answers_at_the_slots_of_the_request(world: World, served: ServedModel) -> None:
    a, b, c, d = world.ids(*HISTORY)
    places = [["", "", "", "", a, b, c, d], [a, b, c, d, "", "", "", ""], ["", a, "", b, c, "", "", d]]
    answer = served("explain", history_item_ids=places, candidate_item_ids=[[*world.ids(7, 8), ""]] * 3, **nothing(3))
    attention, attributions = world.explained(HISTORY, (7, 8))
    for line, at in enumerate(([4, 5, 6, 7], [0, 1, 2, 3], [1, 3, 4, 7])):
        expected = np.zeros([1 + E, L])
        expected[:, at] = [attention[-4:], *attributions[:, -4:], np.zeros(4)]
        np.testing.assert_allclose(answer["attention"][line], expected[0], atol=1e-5)
        np.testing.assert_allclose(answer["attributions"][line], expected[1:], atol=1e-3)


def test_explain_has_nothing_to_say_of_an_empty_history(world: World, served: ServedModel) -> None:
    answer = served("explain", history_item_ids=[[""] * L], candidate_item_ids=[padded(world.ids(7), E)])
    assert not answer["attention"].any()
    assert not answer["attributions"].any()


def test_explain_leaves_the_other_signatures_as_they_are(output: Path) -> None:
    """Loops are in the graphs of `explain` (over gradients) and of the filtered signatures (over requests) alone."""
    library = SavedModel.FromString((output / "recommender" / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    functions = {function.signature.name: function for function in library.library.function}
    looping = {name for name, function in functions.items() if any("While" in node.op for node in function.node_def)}

    def called(name: str) -> set[str]:
        """Functions that a function calls, and those these call."""
        found, todo = set(), [name]
        while todo:
            for node in functions[todo.pop()].node_def:
                inner = {value.func.name for value in node.attr.values() if value.func.name} - found
                found |= inner
                todo.extend(inner)
        return found

    signatures = {name for name in functions if "signature_wrapper" in name}
    assert len([name for name in signatures if called(name) & looping]) == 4


def test_similar_items_are_the_nearest_other_products(world: World, served: ServedModel) -> None:
    vectors = world.retrieval.candidate_embeddings(tf.range(world.catalogue.size)).numpy()
    dots = np.where(world.catalogue.available, vectors @ vectors[6], -np.inf)
    dots[6] = -np.inf
    answer = served("similar_items", item_ids=world.ids(6))
    assert names(answer) == [world.ids(*np.argsort(-dots)[:K])]
    np.testing.assert_allclose(answer["scores"][0], np.sort(dots)[::-1][:K], atol=1e-5)


def test_similar_items_leans_to_the_history_given(world: World, served: ServedModel) -> None:
    history = padded(world.ids(*HISTORY), L)
    user = served("embed_user", history_item_ids=[history])["embedding"][0]
    plain, blended = (
        served("similar_items", item_ids=world.ids(6), history_item_ids=[line]) for line in ([""] * L, history)
    )
    item = world.retrieval.candidate_embeddings(tf.constant([6])).numpy()[0]
    query = 0.7 * item + 0.3 * user
    vectors = world.retrieval.candidate_embeddings(tf.range(world.catalogue.size)).numpy()
    dots = np.where(world.catalogue.available, vectors @ (query / np.linalg.norm(query)), -np.inf)
    dots[6] = -np.inf
    assert names(blended) == [world.ids(*np.argsort(-dots)[:K])]
    assert np.abs(plain["scores"] - blended["scores"]).max() > 1e-3


@pytest.mark.parametrize("signature", ["similar_items", "complementary_items"])
@pytest.mark.parametrize("item_id", [STRANGER, ""])
def test_lists_beside_an_unknown_product_are_the_popular_ones(
    world: World, served: ServedModel, signature: str, item_id: str
) -> None:
    popular = served("recommend", history_item_ids=[[""] * L])
    assert names(served(signature, item_ids=[item_id])) == names(popular)


def styles_of(world: World) -> np.ndarray:
    """Worked out a second time: the vectors without the mean of their colour, of norm 1; float32 [V, D]."""
    vectors = world.retrieval.candidate_embeddings(tf.range(world.catalogue.size)).numpy()
    for colour in (0, 1):
        vectors[2 + colour :: 2] -= vectors[2 + colour :: 2].mean(axis=0)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def complementary(world: World, query: np.ndarray, item: int, excluded: Sequence[int] = ()) -> list[str]:
    """The K products of the other colour nearest to a style [D]."""
    dots = styles_of(world) @ query
    dots[[0, 1, *excluded]] = -np.inf
    dots[np.arange(world.catalogue.size) % 2 == item % 2] = -np.inf
    return world.ids(*np.argsort(-dots)[:K])


@pytest.mark.parametrize("item", [6, 7])
def test_complementary_items_are_the_nearest_in_style_of_the_other_categories(
    world: World, served: ServedModel, item: int
) -> None:
    answer = served("complementary_items", item_ids=world.ids(item))
    styles = styles_of(world)
    expected = complementary(world, styles[item], item)
    assert names(answer) == [expected]
    rows = [world.catalogue.item_ids.tolist().index(name) for name in expected]
    np.testing.assert_allclose(answer["scores"][0], styles[rows] @ styles[item], atol=1e-5)


def test_complementary_items_lean_to_the_style_of_the_history(world: World, served: ServedModel) -> None:
    styles = styles_of(world)
    mean = styles[list(HISTORY)].mean(axis=0)
    query = 0.7 * styles[6] + 0.3 * mean / np.linalg.norm(mean)
    answer = served("complementary_items", item_ids=world.ids(6), history_item_ids=[padded(world.ids(*HISTORY), L)])
    assert names(answer) == [complementary(world, query / np.linalg.norm(query), 6)]


@pytest.mark.parametrize("signature", ["similar_items", "complementary_items"])
def test_lists_beside_a_product_leave_out_what_is_excluded_and_stay_full(
    world: World, served: ServedModel, signature: str
) -> None:
    full = names(served(signature, item_ids=world.ids(6)))[0]
    without = names(served(signature, item_ids=world.ids(6), exclude_item_ids=[full[:X]]))[0]
    assert not set(without) & {*full[:X], *world.ids(6)}
    assert len(set(without) - {""}) == K


@pytest.mark.parametrize("signature", ["similar_items", "complementary_items"])
def test_a_batch_of_products_answers_as_each_of_them_does(world: World, served: ServedModel, signature: str) -> None:
    ids = [*world.ids(6, 7), STRANGER]
    together = names(served(signature, item_ids=ids))
    assert together == [names(served(signature, item_ids=[one]))[0] for one in ids]


def test_one_click_makes_the_answer_personal(world: World, served: ServedModel) -> None:
    newcomer = names(served("recommend", history_item_ids=[[""] * L]))
    for row in (6, 9):
        answer = served("recommend", history_item_ids=[padded(world.ids(row), L)])
        assert names(answer) == [world.expected([row])[0]]
        assert names(answer) != newcomer


def test_embedding_is_the_query_tower_s(world: World, served: ServedModel) -> None:
    embedding = served("embed_user", history_item_ids=[padded(world.ids(*HISTORY), L)])["embedding"]
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("signature", ["recommend", "retrieve", "embed_user"])
def test_a_batch_answers_as_its_shoppers_do_one_by_one(world: World, served: ServedModel, signature: str) -> None:
    histories = [padded(world.ids(*HISTORY), L), [""] * L, padded([STRANGER, *world.ids(4, 6)], L)]
    together = served(signature, history_item_ids=histories)
    for number, history in enumerate(histories):
        alone = served(signature, history_item_ids=[history])
        for name, values in alone.items():
            if values.dtype == object:
                assert values[0].tolist() == together[name][number].tolist()
            else:
                np.testing.assert_allclose(values[0], together[name][number], atol=1e-5)


def test_optional_input_of_one_row_holds_for_the_whole_batch(world: World, served: ServedModel) -> None:
    histories = [padded(world.ids(*HISTORY), L), padded(world.ids(4, 6), L)]
    banned = world.ids(10, 11)
    answer = served("recommend", history_item_ids=histories, exclude_item_ids=[padded(banned, X)])
    assert not {item for line in names(answer) for item in line} & set(banned)


def test_inputs_of_different_batch_sizes_are_refused(world: World, served: ServedModel) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        served("recommend", history_item_ids=[[""] * L] * 3, context_device=["", ""])


def test_no_shopper_gets_an_empty_answer(served: ServedModel) -> None:
    answer = served("recommend", history_item_ids=np.empty([0, L], object))
    assert answer["item_ids"].shape == answer["scores"].shape == (0, K)


def test_every_answer_is_finite_and_distinct(world: World, served: ServedModel) -> None:
    rng = np.random.default_rng(0)
    ids = np.array(["", STRANGER, *world.catalogue.item_ids[2:]], dtype=object)
    histories = rng.choice(ids, [40, L])
    answer = served("recommend", history_item_ids=histories, exclude_item_ids=rng.choice(ids, [40, X]))
    assert np.isfinite(answer["scores"]).all()
    for line in names(answer):
        assert len(set(line) - {""}) == K


def test_there_is_one_searcher_for_each_index(served: ServedModel) -> None:
    library = served.meta_graph.graph_def.library.function
    searchers = {
        node.attr["shared_name"].s
        for function in library
        for node in function.node_def
        if node.op == "Scann>TensorsToScann"
    }
    # One of vectors, which five signatures search, and one of styles.
    assert len(searchers) == 2
    assert all(name.startswith(b"tandem-") for name in searchers)


def test_only_what_a_signature_reads_is_saved(world: World, output: Path) -> None:
    shapes = [shape for _, shape in tf.train.list_variables(str(output / "recommender" / "variables" / "variables"))]
    # The embeddings of content are left behind: the vectors of the products hold what they say.
    assert [world.catalogue.schema.item[0].vocabulary_size, D] not in shapes


def test_no_graph_asks_for_a_compiler(served: ServedModel) -> None:
    for function in served.meta_graph.graph_def.library.function:
        assert not function.attr["_XlaMustCompile"].b


def test_export_answers_alone_in_another_process(world: World, output: Path, tmp_path: Path) -> None:
    moved = tmp_path / "models" / "recommender" / "1"
    moved.parent.mkdir(parents=True)
    # Files that the first model still reads stay where they are.
    subprocess.run(["cp", "-r", str(output / "recommender"), str(moved)], check=True)
    history = [padded(world.ids(*HISTORY), L)]
    program = (
        "import json, sys\n"
        "import tensorflow as tf\n"
        "from scann.scann_ops.py import scann_ops\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "history = tf.constant(json.loads(sys.argv[2]))\n"
        "def ask(name, **inputs):\n"
        "    signature = model.signatures[name]\n"
        "    specs = signature.structured_input_signature[1]\n"
        "    given = {k: tf.zeros([1, *v.shape[1:]], v.dtype) for k, v in specs.items()}\n"
        "    return signature(**(given | {'history_item_ids': history} | inputs))\n"
        "answer = ask('recommend')\n"
        "ids, scores = (answer[name].numpy()[0] for name in ('item_ids', 'scores'))\n"
        "explained = ask('explain', candidate_item_ids=tf.constant(json.loads(sys.argv[3])))\n"
        "told = explained['attributions'].numpy()[0]\n"
        "nothing = {'history_item_ids': tf.fill(history.shape, '')}\n"
        "beside = ask('complementary_items', item_ids=tf.constant(sys.argv[4:]), **nothing)['item_ids'].numpy()\n"
        "beside = beside.astype(str).tolist()\n"
        "print(json.dumps([ids.astype(str).tolist(), scores.tolist(), told.tolist(), beside]))\n"
    )
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            str(moved),
            json.dumps(history),
            json.dumps([world.ids(7, 8, 9)]),
            *world.ids(6),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    ids, scores, told, beside = json.loads(run.stdout.splitlines()[-1])
    _, attributions = world.explained(HISTORY, (7, 8, 9))
    np.testing.assert_allclose(np.array(told)[:, :4], attributions[:, -4:], atol=1e-3)
    expected_ids, expected_scores = world.expected(list(HISTORY))
    assert ids == expected_ids
    assert beside == [complementary(world, styles_of(world)[6], 6)]
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-5)


def test_every_warm_up_request_is_answered(output: Path, served: ServedModel) -> None:
    replay_warm_up(output / "recommender", served)
    with ServedModel(output / "item_encoder") as encoder:
        replay_warm_up(output / "item_encoder", encoder)


def replay_warm_up(directory: Path, served: ServedModel) -> None:
    """Every signature is asked at every batch size."""
    # Imported late: it loads all of TensorFlow.
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    seen = set()
    for record in tf.data.TFRecordDataset(str(directory / WARMUP_FILE)).as_numpy_iterator():
        request = PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        served(request.model_spec.signature_name, **inputs)
        seen.add((request.model_spec.signature_name, len(next(iter(inputs.values())))))
    assert {name for name, _ in seen} == set(served.signatures)
    assert {batch for _, batch in seen} == {1, 2, 4, 8, 16, 32}


def test_lists_report_says_what_was_chosen_and_what_is_in_the_lists(output: Path) -> None:
    report = json.loads((output / "lists.json").read_text())
    assert report["new_visitors"]["chosen"] == {"by": [], "strength": None}
    assert report["similar_items"]["behaviour_share"] == CONFIG.similar_behaviour_share
    # Sessions of a single product tell no pair.
    assert report["similar_items"]["products_with_neighbours"] == 0
    assert "validation" not in report["similar_items"]
    assert report["complementary_items"]["neighbours"] == CONFIG.neighbours


def test_index_report_says_what_was_measured(world: World, output: Path) -> None:
    report = json.loads((output / "index.json").read_text())
    assert report["kind"] == "scann"
    assert report["recall@100"] == 1.0
    assert report["ms_per_query"] > 0
    assert report["build_seconds"] > 0
    assert report["n"] == world.catalogue.size - 2
    assert report["dim"] == D


def test_metadata_beside_the_model_names_its_widths(output: Path) -> None:
    metadata = json.loads((output / "recommender" / "assets.extra" / "tandem.json").read_text())
    assert metadata["index"]["kind"] == "scann"
    assert metadata["widths"] == {
        "history": L,
        "answer": K,
        "candidates": C,
        "exclusions": X,
        "explained": E,
        "exclude_history": False,
        "new": 2,
        "filters": {
            "values": F,
            "allowed": A,
            "fetched": 4_000,
            "lists": N,
            "list_length": P,
            "list_candidates": 7,
        },
    }
    assert metadata["custom_ops"] == ["Scann"]


@pytest.fixture(scope="module")
def regional(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose new visitors take products of the colour of their region."""
    return World(tmp_path_factory.mktemp("regional"), sequences=with_newcomers())


@pytest.fixture(scope="module")
def unseen(regional: World) -> Path:
    """Another kind of export: exact search, products of the history left out, no complementary ones."""
    return regional.export("unseen", replace(CONFIG, index="brute_force", exclude_history=True, complementary=False))


@pytest.fixture(scope="module")
def served_unseen(unseen: Path) -> Iterator[ServedModel]:
    with ServedModel(unseen / "recommender") as served:
        yield served


def test_products_of_the_history_can_be_left_out(regional: World, served_unseen: ServedModel) -> None:
    rows = tuple(range(3, 11))
    answer = served_unseen("recommend", history_item_ids=[regional.ids(*rows)])
    assert names(answer) == [regional.expected(list(rows), excluded=rows)[0]]


def test_brute_force_export_needs_no_op_of_scann(unseen: Path) -> None:
    assert json.loads((unseen / "index.json").read_text())["kind"] == "brute_force"
    graph = SavedModel.FromString((unseen / "recommender" / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    assert not [node.op for function in graph.library.function for node in function.node_def if "Scann" in node.op]


def test_small_catalogue_without_categories_is_answered_all_the_same(tmp_path: Path) -> None:
    """Answers that there are too few products for end in padding, and nothing complements anything."""
    small = World(tmp_path, unavailable=tuple(range(5, 26)), categories=False)
    output = small.export("export", CONFIG)
    lists = json.loads((output / "lists.json").read_text())
    assert lists["complementary_items"] == {"reason": "no product has a category"}
    with ServedModel(output / "recommender") as served:
        assert "complementary_items" not in served.signatures
        for history in ([""] * L, padded(small.ids(*HISTORY), L)):
            answer = served("recommend", history_item_ids=[history])
            assert set(names(answer)[0][:3]) == set(small.ids(2, 3, 4))
            assert names(answer)[0][3:] == [""] * (K - 3)
            assert (answer["scores"][0, 3:] == ABSENT_SCORE).all()
            assert np.isfinite(answer["scores"]).all()


def test_catalogue_without_an_available_product_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path, unavailable=tuple(range(2, 26)))
    with pytest.raises(ExportError, match="none of the 24 products is available"):
        world.export("export", CONFIG)


def test_answer_longer_than_the_candidates_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match=r"export\.k must not exceed export\.candidates \(10\), received 11"):
        world.export("refused", replace(CONFIG, k=11))


def with_sessions(sequences: Sequences) -> Sequences:
    """Histories as sessions of four, of which the newest two are from the other end of the catalogue's other colour."""
    rows = sequences.rows.copy()
    places = np.arange(len(rows)) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    crossing = places % 4 >= 2
    rows[crossing] = 27 - rows[crossing]
    kinds = np.full(len(rows), EVENT_TYPES["purchase"])
    return replace(
        sequences,
        rows=rows,
        types=kinds.astype(np.int8),
        labels=(1 << kinds).astype(np.int32),
        sessions=(places // 4).astype(np.int32),
    )


@pytest.fixture(scope="module")
def sociable(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world whose products go along with each other."""
    return World(tmp_path_factory.mktemp("sociable"), sequences=with_sessions(checkerboard_sequences()))


def test_behaviour_is_blended_with_likeness(sociable: World) -> None:
    """score = (1 − s) · cosine + s · strength, for similar and for complementary products."""
    config = replace(CONFIG, similar_behaviour_share=0.4, complementary_behaviour_share=0.6, neighbours=5)
    output = sociable.export("export", config)
    catalogue, size = sociable.catalogue, sociable.catalogue.size
    vectors = sociable.retrieval.candidate_embeddings(tf.range(size)).numpy()
    sequences = load_sequences(sociable.transform)
    colour = np.concatenate([[-1, -1], np.arange(2, size) % 2])
    tables = {
        "similar_items": (neighbours_by_sessions(sequences, catalogue, 5), vectors, 0.4),
        "complementary_items": (
            neighbours_by_purchases(sequences, catalogue, colour, 5),
            styles_of(sociable),
            0.6,
        ),
    }
    with ServedModel(output / "recommender") as served:
        for signature, (table, space, share) in tables.items():
            assert table.rows[6].all()
            strengths = np.zeros(size)
            strengths[table.rows[6]] = table.strengths[6]
            scores = (1 - share) * space @ space[6] + share * strengths
            scores[[0, 1, 6]] = -np.inf
            if signature == "complementary_items":
                scores[colour == 0] = -np.inf
            answer = served(signature, item_ids=sociable.ids(6))
            assert names(answer) == [sociable.ids(*np.argsort(-scores)[:K])]
            np.testing.assert_allclose(answer["scores"][0], np.sort(scores)[::-1][:K], atol=1e-5)
    report = json.loads((output / "lists.json").read_text())
    assert report["similar_items"]["behaviour_share"] == 0.4
    assert report["similar_items"]["products_with_neighbours"] == size - 2


def test_new_visitors_are_answered_by_their_segment(regional: World, unseen: Path, served_unseen: ServedModel) -> None:
    """Regions 2 and 3 take products of one colour each, so that visitors from there get that colour."""
    assert "region" in json.loads((unseen / "lists.json").read_text())["new_visitors"]["chosen"]["by"]
    nobody, served = [[""] * L], served_unseen
    overall = served("recommend", history_item_ids=nobody)
    assert names(served("recommend", history_item_ids=nobody, context_region=["Mars"])) == names(overall)
    for region, colour in (("region-2", "white"), ("region-3", "black")):
        for signature in ("recommend", "retrieve"):
            answer = served(signature, history_item_ids=nobody, context_region=[region])
            assert all(item.startswith(colour) for item in names(answer)[0][:K])
            assert (np.diff(answer["scores"][0]) <= 0).all()
        listed = names(served("recommend", history_item_ids=nobody, context_region=[region]))[0]
        without = served("recommend", history_item_ids=nobody, context_region=[region], exclude_item_ids=[listed[:X]])
        assert not set(names(without)[0]) & set(listed[:X])
        assert len(set(names(without)[0]) - {""}) == K
    # A history says more than where its shopper is.
    known = [padded(regional.ids(*HISTORY), L)]
    here, there = (
        served("retrieve", history_item_ids=known, context_region=[region]) for region in ("region-2", "region-3")
    )
    assert all(np.isfinite(answer["scores"]).all() for answer in (here, there))


def test_complementary_items_can_be_left_out(served_unseen: ServedModel) -> None:
    assert "complementary_items" not in served_unseen.signatures
