"""The whole evaluation: protocols, segments, two stages together, what is written."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.small_shop import LEAVE_ONE_OUT, PURCHASE, TIME, VIEW, make_catalogue, make_sequences
from tests.trainer.worlds import checkerboard_catalogue, checkerboard_sequences, write_transform
from trainer.baselines import training_interactions
from trainer.candidate_head import CandidateHead, save_head
from trainer.cold_start import product_groups
from trainer.config import EvaluationConfig, HeadConfig, RankerConfig, RetrievalConfig
from trainer.data import Catalogue
from trainer.evaluation import EvaluationError, Shop, evaluate, measure
from trainer.model_files import save_model
from trainer.queries import Queries, Split
from trainer.ranker import Ranker
from trainer.retrieval import RetrievalModel

SIZE = 10
# In the test span ann takes 5 and again 3 (one basket), then 9, which nobody had met; bob takes 2 again; cy is new.
SHOPPERS = {
    "ann": [(2, 10, VIEW), (3, 20, PURCHASE), (4, 150, VIEW), (5, 210, VIEW), (3, 210, PURCHASE), (9, 220, VIEW)],
    "bob": [(2, 10, VIEW), (7, 30, VIEW), (2, 130, VIEW), (2, 230, VIEW)],
    "cy": [(4, 205, VIEW), (8, 206, VIEW)],
}


class FixedOrder:
    """Ranks the products in the order given, the rest behind."""

    def __init__(self, *rows: int, size: int = SIZE) -> None:
        self.order = np.zeros(size, np.float32)
        self.order[list(rows)] = np.arange(len(rows), 0, -1)

    def scores(self, queries: Queries, start: int, stop: int) -> np.ndarray:
        return np.repeat(self.order[None], stop - start, axis=0)


class KnownTruth:
    """An oracle whose best product is 5 for ann and 2 for everybody else."""

    def scores(self, user_ids: np.ndarray, context_timestamps: np.ndarray) -> np.ndarray:
        assert (context_timestamps == 200).all()
        scores = np.zeros((len(user_ids), SIZE))
        scores[np.arange(len(user_ids)), [5 if user == "ann" else 2 for user in user_ids]] = 1
        return scores


def make_shop(config: EvaluationConfig, split: Split = TIME, catalogue: Catalogue | None = None) -> Shop:
    catalogue = catalogue or make_catalogue(SIZE)
    sequences = make_sequences(SHOPPERS, split)
    rows = sequences.rows[training_interactions(sequences)]
    catalogue.train_counts[:] = np.bincount(rows, minlength=catalogue.size)
    return Shop(catalogue, sequences, split, None, config)


CONFIG = EvaluationConfig(cutoffs=(2, 10), candidates=3, bootstrap_samples=20, baselines=("co_occurrence",))
MODELS = {"retrieval": FixedOrder(7, 5, 2, 3), "ranker": FixedOrder(3, 2, 5, 7)}


def test_headline_ranks_both_stages_alone_and_together() -> None:
    metrics, _ = measure(make_shop(CONFIG), MODELS)
    # Truth: ann {3, 5, 9}, bob {2}. Retrieval 7 5 2 3: ann finds 5 within two, bob nothing.
    assert metrics["retrieval"]["recall@2"] == pytest.approx((1 / 3 + 0) / 2)
    # Ranker 3 2 5 7: one of ann's, and bob's.
    assert metrics["ranker"]["recall@2"] == pytest.approx((1 / 3 + 1) / 2)
    # Ann: her newest product 4, retrieved 7 5, ranked 5 7 4. Bob: his 2, retrieved 7 5, ranked 2 5 7.
    assert metrics["two_stage"]["recall@2"] == pytest.approx((1 / 3 + 1) / 2)
    assert metrics["two_stage"]["mrr"] == pytest.approx(1)


def test_differences_are_two_stages_minus_the_other() -> None:
    metrics, _ = measure(make_shop(CONFIG), MODELS)
    entry = metrics["differences"]["retrieval"]["mrr"]
    # Retrieval: ann's first is at rank 2, bob's at rank 3.
    assert entry["difference"] == pytest.approx(1 - (1 / 2 + 1 / 3) / 2)
    assert entry["interval"][0] <= entry["difference"] <= entry["interval"][1]
    assert set(metrics["differences"]) == {"retrieval", "ranker", "recent_popularity", "co_occurrence"}


def test_every_figure_of_a_system_has_an_interval_but_those_of_all_lists_together() -> None:
    figures = measure(make_shop(CONFIG), MODELS)[0]["two_stage"]
    metrics = {name for name, value in figures.items() if isinstance(value, float)}
    assert metrics - set(figures["intervals"]) == {"coverage@100", "gini@10"}
    low, high = figures["intervals"]["recall@2"]
    assert low <= figures["recall@2"] <= high


def test_time_split_reports_the_other_rule_for_seen_products_too() -> None:
    metrics, _ = measure(make_shop(CONFIG), MODELS)
    unseen = metrics["protocols"]["exclude_seen=true"]
    # Bob's only truth was seen before, so ann alone is asked, for 5 and 9; 3 and 2 are no candidates for her.
    assert unseen["queries"] == 1
    assert unseen["ranker"]["mrr"] == pytest.approx(1.0)


def test_headline_follows_the_configured_rule_for_seen_products() -> None:
    config = EvaluationConfig(cutoffs=(2, 10), candidates=3, bootstrap_samples=20, exclude_seen=True)
    metrics, _ = measure(make_shop(config), MODELS)
    assert metrics["dataset"]["protocol"]["exclude_seen"] is True
    assert metrics["queries"] == 1
    assert metrics["protocols"]["exclude_seen=false"]["queries"] == 2


def test_rolling_table_asks_for_each_basket() -> None:
    metrics, _ = measure(make_shop(CONFIG), MODELS)
    rolling = metrics["protocols"]["rolling_next"]
    # Ann: {3, 5}, then {9}; bob: {2}; cy: {8} after 4.
    assert rolling["queries"] == 4
    # 3 is first for ann's basket, 9 and 8 follow 2 3 4 5 6 7 8 9 by row, 2 is second.
    assert rolling["ranker"]["recall@2"] == pytest.approx((1 / 2 + 0 + 1 + 0) / 4)


def test_products_new_since_training_are_reported_apart() -> None:
    metrics, _ = measure(make_shop(CONFIG), MODELS)
    new = metrics["cold_start"]["new_products"]
    # Ann's 5 and 9 have no interaction in the training span. Ranker order: 3 2 5 7 4 6 8 9: ranks 3 and 8.
    assert new["truth"] == 2
    assert new["truth_share"] == pytest.approx(2 / 4)
    expected = (1 / math.log2(4) + 1 / math.log2(9)) / (1 + 1 / math.log2(3))
    assert new["ranker"]["ndcg@10"] == pytest.approx(expected)


def test_rare_products_are_ranked_among_everything_and_among_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.cold_start.RARE_BELOW", 1)
    rare = measure(make_shop(CONFIG), MODELS)[0]["cold_start"]["rare_products"]
    # No training interaction: 4, 5, 6, 8, 9, of which ann chooses 5 and 9.
    assert (rare["below"], rare["products"], rare["truth"]) == (1, 5, 2)
    ideal = 1 + 1 / math.log2(3)
    # Ranker order: 3 2 5 7 4 6 8 9, without the others 5 4 6 8 9. Two stages: 5 7 4 2 3 6 8 9.
    expected = {"ranker": (3, 8), "two_stage": (1, 8)}
    for system, ranks in expected.items():
        everything, among = rare[system], rare[system]["among_themselves"]
        assert everything["ndcg@10"] == pytest.approx(sum(1 / math.log2(1 + rank) for rank in ranks) / ideal)
        assert among["ndcg@10"] == pytest.approx((1 + 1 / math.log2(6)) / ideal)
        # One shopper alone: every resample is the same.
        assert among["intervals"]["ndcg@10"] == pytest.approx([among["ndcg@10"]] * 2)
    assert rare["baselines"]["co_occurrence"]["among_themselves"]["recall@10"] == 1.0


def test_rare_is_fewer_than_five_interactions_in_training() -> None:
    catalogue = make_catalogue(SIZE)
    catalogue.train_counts[2:5] = 4, 5, 6
    assert np.flatnonzero(product_groups(catalogue, None)["rare_products"]).tolist() == [2, 5, 6, 7, 8, 9]


def test_shop_whose_rare_products_nobody_chose_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.cold_start.RARE_BELOW", 0)
    rare = measure(make_shop(CONFIG), MODELS)[0]["cold_start"]["rare_products"]
    assert (rare["products"], rare["truth"], rare["two_stage"]) == (0, 0, {"queries": 0})


def test_shoppers_without_history_are_reported_apart() -> None:
    visitors = measure(make_shop(CONFIG), MODELS)[0]["cold_start"]["new_visitors"]
    assert visitors["queries"] == 1
    assert visitors["baselines"]["recent_popularity"]["recall@10"] == 1.0


def test_segments_split_queries_by_history_and_truth_by_popularity() -> None:
    segments = measure(make_shop(CONFIG), MODELS)[0]["ranker"]["segments"]
    assert segments["history_length"]["1-4"]["queries"] == 2
    assert segments["history_length"]["5-19"] == {"queries": 0}
    popularity = segments["item_popularity"]
    # Training: 2 twice of four is the head, 3 begins beyond half, 7 beyond three quarters: mid, and no tail.
    assert {name: part["queries"] for name, part in popularity.items()} == {"head": 1, "mid": 1, "tail": 0, "new": 1}
    assert popularity["mid"]["ndcg@10"] == pytest.approx(1.0)


def test_lists_lean_to_popular_products_as_far_as_their_classes_say() -> None:
    metrics, _ = measure(make_shop(CONFIG), MODELS)
    # Everybody's list holds all eight products: 2 is the head, 3 and 7 are mid, five have no training interaction.
    ours = metrics["two_stage"]
    assert [ours[f"{name}_share@10"] for name in ("head", "mid", "tail", "new")] == [1 / 8, 2 / 8, 0, 5 / 8]
    assert metrics["popularity_classes"]["candidates"] == {"head": 1 / 8, "mid": 2 / 8, "tail": 0, "new": 5 / 8}
    assert metrics["popularity_classes"]["truth"] == {"head": 1 / 4, "mid": 1 / 4, "tail": 0, "new": 2 / 4}
    # Four training interactions over eight products, each of which everybody sees once.
    assert ours["popularity@10"] == pytest.approx(1 / 8)
    assert ours["gini@10"] == 0.0


def test_fairness_tells_every_system_by_group_and_shows_small_groups_without_judging_them() -> None:
    shop = make_shop(CONFIG)
    names = ["", "", *(f"phone {number}" for number in range(2, 30))]
    fairness = measure(replace(shop, context_names={"device": names}), MODELS)[0]["fairness"]
    assert fairness["minimum_queries"] == 100
    assert set(fairness) == {"minimum_queries", "retrieval", "ranker", "two_stage", "baselines"}
    assert set(fairness["baselines"]) == {"recent_popularity", "co_occurrence"}
    # Ann's newest interaction before the cut-off is the third of all, on device 12; bob's is the ninth, on 18.
    device = fairness["ranker"]["device"]
    assert {name: group["queries"] for name, group in device["groups"].items()} == {"phone 12": 1, "phone 18": 1}
    # Bob's 2 stands at rank 2.
    assert device["groups"]["phone 18"]["ndcg@10"] == pytest.approx(1 / math.log2(3))
    assert device["groups"]["phone 18"]["judged"] is False
    assert device["gaps"] == {}


def test_attainable_ranking_gives_each_system_its_share() -> None:
    metrics, _ = measure(make_shop(CONFIG), MODELS, KnownTruth())
    best = metrics["attainable"]
    assert best["mrr"] == pytest.approx(1.0)
    assert best["shares"]["two_stage"] == pytest.approx(metrics["two_stage"]["ndcg@10"] / best["ndcg@10"])
    assert set(best["shares"]) == {"retrieval", "ranker", "two_stage", "recent_popularity", "co_occurrence"}


def test_protocol_says_what_was_asked_and_what_was_left_out() -> None:
    protocol = measure(make_shop(CONFIG, catalogue=make_catalogue(SIZE, {9: 215})), MODELS)[0]["dataset"]["protocol"]
    expected = {
        "split": "time",
        "exclude_seen": False,
        "cut_off": 200,
        "n_queries": 2,
        "truth": 3,
        "truth_not_yet_known": 1,
        "shoppers_without_history": 1,
        "refit": False,
    }
    assert {name: protocol[name] for name in expected} == expected


def test_leave_one_out_has_one_protocol() -> None:
    metrics, _ = measure(make_shop(CONFIG, LEAVE_ONE_OUT), MODELS)
    assert metrics["dataset"]["protocol"]["exclude_seen"] is True
    assert metrics["protocols"] == {}


def test_examples_show_history_lists_and_truth_by_product_id() -> None:
    _, examples = measure(make_shop(CONFIG), MODELS)
    # Bob, with three interactions, is worth showing as well.
    assert [example["user_id"] for example in examples] == ["ann", "bob"]
    assert examples[0]["history"] == ["p2", "p3", "p4"]
    assert examples[0]["recommended"][:4] == ["p5", "p7", "p4", "p2"]
    assert examples[0]["popular"][0] == "p2"
    assert examples[0]["truth"] == ["p3", "p5", "p9"]


def test_span_without_queries_is_an_error_that_counts() -> None:
    sequences = make_sequences({"ann": [(2, 10, VIEW), (3, 20, VIEW)]})
    with pytest.raises(EvaluationError, match=r"received .*'shoppers': 1.*Move split\.test_start"):
        measure(Shop(make_catalogue(SIZE), sequences, TIME, None, CONFIG), MODELS)


def test_validation_span_without_queries_is_an_error_that_counts() -> None:
    # Bob's validation product was seen before, dan has none.
    shoppers = {"bob": SHOPPERS["bob"], "dan": [(2, 10, VIEW), (3, 210, VIEW)]}
    shop = Shop(make_catalogue(SIZE), make_sequences(shoppers), TIME, None, EvaluationConfig(exclude_seen=True))
    with pytest.raises(EvaluationError, match=r"'truth_seen_before': 1.*Move split\.validation_start"):
        measure(shop, MODELS)


def test_evaluate_loads_the_models_and_writes_strict_json(tmp_path: Path) -> None:
    catalogue, sequences = checkerboard_catalogue(), checkerboard_sequences()
    write_transform(tmp_path / "transform", catalogue, sequences)
    path = tmp_path / "transform" / "statistics.json"
    counts = ("interactions", "users", "items_catalogue", "items_in_events", "items_only_in_events")
    facts = {**dict.fromkeys(counts, 1), "spans": {}, "has_timestamps": True}
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    retrieval, ranker = RetrievalConfig(dim=8, history_length=6, heads=1), RankerConfig(dim=8, history_length=4)
    save_model(tmp_path / "one", "retrieval", RetrievalModel(catalogue, retrieval), retrieval, catalogue.schema)
    save_model(tmp_path / "two", "ranker", Ranker(catalogue, ranker), ranker, catalogue.schema)
    save_head(tmp_path / "three", CandidateHead(catalogue, HeadConfig()), catalogue)
    output, logs = tmp_path / "out", tmp_path / "logs"
    output.mkdir()

    evaluate(tmp_path / "transform", tmp_path / "one", tmp_path / "two", tmp_path / "three", output, CONFIG, logs)

    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["dataset"]["protocol"]["n_queries"] == 32
    # Shoppers of a colour meet the products of their colour only: co-occurrence leaves one unseen candidate in front.
    assert metrics["baselines"]["co_occurrence"]["ndcg@10"] == pytest.approx(1.0)
    assert 0 <= metrics["two_stage"]["diversity@10"] <= 1
    examples = json.loads((output / "examples.json").read_text())
    explained = json.loads((output / "explanation.json").read_text())["shoppers"]
    assert len(examples) == 5
    assert [shopper["item_id"] for shopper in explained] == [example["recommended"][0] for example in examples]
    assert explained[0]["history"] == examples[0]["history"][-len(explained[0]["history"]) :]
    assert {path.parent.name for path in logs.rglob("events.out.tfevents*")} >= {"two_stage", "co_occurrence"}


def test_products_listed_after_the_cut_off_are_asked_each_time_one_is_chosen() -> None:
    # 9 is known from 215, between the start of the test span at 200 and ann's choice at 220.
    catalogue = make_catalogue(SIZE, {9: 215})
    rolling = measure(make_shop(CONFIG, catalogue=catalogue), MODELS)[0]["cold_start"]["rolling_next"]
    later = rolling["listed_later"]
    assert (later["products"], later["truth"]) == (1, 1)
    # Behind 3 2 5 7 by row: 4 6 8 9.
    assert later["ranker"]["ndcg@10"] == pytest.approx(1 / math.log2(9))
    assert later["ranker"]["among_themselves"]["ndcg@10"] == pytest.approx(1.0)
    assert set(later["differences"]) == {"retrieval", "ranker", "recent_popularity", "co_occurrence"}
    # Two stages: of the candidates 3 (her newest), 7 and 5 none is 9, which is last of all.
    assert later["differences"]["ranker"]["ndcg@10"]["difference"] == pytest.approx(0.0)


def test_categories_that_a_shopper_had_not_met_are_told_apart() -> None:
    catalogue = make_catalogue(SIZE)
    catalogue.categories[:] = ["", "", "a", "a", "a", "b", "b", "a", "", "c"]
    rolling = measure(make_shop(CONFIG, catalogue=catalogue), MODELS)[0]["cold_start"]["rolling_next"]
    # Ann meets b with 5 and c with 9 for the first time; bob and she know a; cy's 8 has no category.
    assert rolling["unvisited_categories"]["truth"] == 2
    # Ranker order: 3 2 5 7 4 6 8 9: 5 beside 3 in one basket at rank 3, 9 at rank 8.
    expected = (1 / math.log2(4) + 1 / math.log2(9)) / 2
    assert rolling["unvisited_categories"]["ranker"]["ndcg@10"] == pytest.approx(expected)
