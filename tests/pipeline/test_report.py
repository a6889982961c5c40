"""RUN/report.html, read back with an HTML parser."""

import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.report import ReportError, write_report
from pipeline.report_head import head_table
from pipeline.report_models import models_of, verdict
from tests.pipeline.measured_run import EXAMPLES, HOSTILE, PRODUCTS, metrics, write_run


class Page(HTMLParser):
    """Tags with their attributes, in order, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    def of(self, tag: str, css: str = "") -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag and css in (attributes.get("class") or "")]


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A whole run whose products have no pictures."""
    return write_run(tmp_path / "run", PRODUCTS, EXAMPLES)


def change_metrics(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((run / "metrics.json").read_text())
    change(content)
    (run / "metrics.json").write_text(json.dumps(content))


def test_headline_says_how_much_more_is_found(run: Path) -> None:
    # recall@10 is 0.25 for two stages and 0.1 for recent popularity.
    assert "Two stages find 2.5× as many of the next products as recent popularity" in page_of(run).text


def test_page_is_well_formed_and_every_tag_is_closed(run: Path) -> None:
    assert page_of(run).open == []


def test_page_asks_nothing_of_the_network_and_runs_no_script(run: Path) -> None:
    page = page_of(run)
    addresses = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(address and address.startswith(("data:image/png;base64,", "#")) for address in addresses)
    assert not page.of("script")
    assert not page.of("link")
    assert "url(" not in (run / "report.html").read_text()


def test_sections_that_are_linked_exist(run: Path) -> None:
    page = page_of(run)
    targets = {attributes.get("id") for attributes in page.of("section")}
    assert {attributes["href"] for attributes in page.of("a")} == {f"#{target}" for target in targets}


def test_every_model_has_its_figures_with_intervals(run: Path) -> None:
    text = page_of(run).text
    # NDCG@10 of co-occurrence is 0.12 ± 10 %.
    assert "Co-occurrence 0.1200 0.1080 to 0.1320" in text


def test_differences_stand_with_their_intervals(run: Path) -> None:
    assert "minus co-occurrence +0.0800 +0.0600 to +0.1000" in page_of(run).text


def test_share_of_the_attainable_is_told_where_it_is_known(run: Path) -> None:
    # 0.2 of 0.4.
    assert "50 % of the attainable NDCG@10" in page_of(run).text


def test_shop_without_a_known_truth_says_that_the_attainable_is_not_measured(run: Path) -> None:
    change_metrics(run, lambda content: content.pop("attainable"))
    text = page_of(run).text
    assert "Not measured: the best attainable ranking, which only a simulated shop knows." in text
    assert "of the attainable" not in text


def test_segments_cold_start_and_other_protocols_are_shown(run: Path) -> None:
    text = page_of(run).text
    assert "By interactions before the cut-off" in text
    assert "Products nobody had met in training, at the cut-off: 50 of the products chosen, 2.00 %" in text
    assert "Shoppers without a history: 77" in text
    assert "With products met before left out: 900 questions" in text


def test_fairness_is_told_in_sentences_charts_and_tables(run: Path) -> None:
    page = page_of(run)
    # Of 0.2, the north has 1.2 times and the south 0.7 times as much.
    assert (
        "Region: NDCG@10 is highest for north (0.2400) and lowest for south (0.1400), 0.1000 apart "
        "(95 % interval +0.0800 to +0.1200): more than chance." in page.text
    )
    assert "from new to loyal: fewer than two groups are large enough to be judged." in page.text
    assert "isles 20 0.0000 too few to judge" in page.text
    # The baseline's gap is half of 0.12.
    assert "Co-occurrence 0.0600 +0.0480 to +0.0720, more than chance" in page.text
    assert "1-4 interactions 400 0.2000 0.1800 to 0.2200" in page.text


def test_gap_within_chance_is_said_so(run: Path) -> None:
    def chance(content: dict[str, Any]) -> None:
        gap = content["fairness"]["two_stage"]["region"]["gaps"]["ndcg@10"]
        gap |= {"outside_chance": False, "pairs": 3, "pairs_outside_chance": 0}

    change_metrics(run, chance)
    assert "(95 % interval +0.0800 to +0.1200): within chance." in page_of(run).text


def test_groups_between_the_ends_that_differ_are_not_hidden(run: Path) -> None:
    def between(content: dict[str, Any]) -> None:
        gap = content["fairness"]["two_stage"]["region"]["gaps"]["ndcg@10"]
        gap |= {"outside_chance": False, "pairs": 3, "pairs_outside_chance": 2}

    change_metrics(run, between)
    assert "within chance, but 2 other pairs of groups differ beyond it." in page_of(run).text


def test_run_without_fairness_says_so(run: Path) -> None:
    change_metrics(run, lambda content: content.pop("fairness"))
    assert "Not measured: metrics.json holds no fairness table." in page_of(run).text


def test_popularity_of_the_lists_stands_beside_what_there_is_and_what_was_chosen(run: Path) -> None:
    text = page_of(run).text
    assert "All candidates 10.0 % 20.0 % What shoppers chose 45.0 % 5.0 % Two stages 70.0 % 30.0 %" in text
    assert "0.123 %" in text


def test_what_the_parts_of_the_head_give_is_told_and_the_served_order_marked(run: Path) -> None:
    text = page_of(run).text
    assert "Stage two's order of 4,000 shoppers' candidates on validation" in text
    assert "Head without price 0.3400" in text
    assert "+0.0400 ± 0.0012" in text
    table = head_table(metrics()["head"])
    assert table is not None
    assert [row.name for row in table.rows if row.cells[0].best] == ["Head without price"]
    assert head_table({}) is None


def test_every_figure_of_embedding_quality_has_its_target_and_verdict(run: Path) -> None:
    page = page_of(run)
    assert "Isotropy, smallest over largest singular value (retrieval) 0.2000" in page.text
    assert "> 0.3 misses" in page.text
    assert "Ten nearest in the same leaf category (ranker) 70.0 % chance 10.0 %, at most 90.0 %" in page.text
    # Of both stages isotropy, cosine and agreement, and the index's recall; only the retrieval's isotropy misses.
    assert "6 of 7 measured targets are met. Missed: Isotropy" in page.text
    assert "4 could not be measured here" in page.text


def test_map_of_the_catalogue_has_a_point_for_each_product(run: Path) -> None:
    page = page_of(run)
    assert len(page.of("circle", "hue0")) == len(PRODUCTS)
    assert "8 products drawn by a hash" in page.text


def test_run_without_embedding_quality_says_so(run: Path) -> None:
    change_metrics(run, lambda content: content.pop("embedding_quality"))
    assert "Not measured: metrics.json holds no embedding quality." in page_of(run).text


def test_rare_products_are_told_beside_new_ones(run: Path) -> None:
    text = page_of(run).text
    assert (
        "Products with fewer than 5 interactions in training, at the cut-off: 60 of the products chosen, 5.00 %" in text
    )
    assert "The same, ranked among those 3 products alone" in text


def test_index_recall_and_latency_are_shown(run: Path) -> None:
    text = page_of(run).text
    assert "ScaNN 99.12 % 0.80 ms 2.5 s Leaves 40, Leaves to search 7 Brute force 100.00 % 1.90 ms – –" in text
    assert "Products in it 1,234" in text


def test_both_forms_of_the_index_stand_beside_brute_force(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    portable = {"kind": "portable", "recall@100": 0.9876, "ms_per_query": 1.25, "build_seconds": 61.0, "n": 1_234}
    metrics["index"]["portable"] = portable | {"settings": {"storage": "int8"}, "ms_per_query_brute_force": 1.8}
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert (
        "ScaNN 99.12 % 0.80 ms 2.5 s Leaves 40, Leaves to search 7 "
        "Portable 98.76 % 1.25 ms 1 min 1 s Storage int8 Brute force 100.00 % 1.90 ms – –"
    ) in page_of(run).text


def test_an_exact_index_is_shown_once(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["index"] |= {"kind": "brute_force", "recall@100": 1.0, "settings": {}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = page_of(run).text
    assert "Brute force 100.00 % 0.80 ms 2.5 s – Products in it" in text
    assert text.count("Brute force 100.00 %") == 1


def test_learning_curves_are_drawn_for_both_models(run: Path) -> None:
    page = page_of(run)
    assert len(page.of("polyline", "curve")) == 4
    assert "best 0.1400 at epoch 2" in page.text


def test_model_without_a_history_file_is_said_so(run: Path) -> None:
    (run / "steps" / "train-ranker" / "history.json").unlink()
    page = page_of(run)
    assert len(page.of("polyline", "curve")) == 2
    assert "Not measured: the training left no history.json." in page.text


def test_clean_validation_is_said_in_a_sentence(run: Path) -> None:
    assert "with the schema in RUN/schema and found nothing against it." in page_of(run).text


def test_anomalies_are_listed(run: Path) -> None:
    anomaly = {"dataset": "test", "feature": "device", "rule": "NEW", "description": "Toaster.", "severity": "warn"}
    (run / "steps" / "validate" / "anomalies.json").write_text(json.dumps([anomaly]))
    assert "test, device: Toaster. (NEW)" in page_of(run).text


def test_events_by_day_and_changes_of_features_are_drawn(run: Path) -> None:
    file = run / "steps" / "validate" / "summary.json"
    summary = json.loads(file.read_text())
    summary["events_by_day"] = {"2024-03-01": 100, "2024-03-02": 120}
    summary["change"] = {"day 2024-03-02": {"device": 0.04}, "day 2024-03-02, region=north": {"device": 0.4375}}
    file.write_text(json.dumps(summary))
    page = page_of(run)
    drawn = [attributes["aria-label"] for attributes in page.of("svg", "chart")]
    assert {"Events by day", "Change of features"} <= set(drawn)
    assert "2024-03-01 to 2024-03-02, every event counted" in page.text
    # The largest of day and slice is drawn, the table has the day alone.
    assert "0.438" in page.text
    assert "Change since the last blessed run" in page.text


def test_logged_requests_are_told(run: Path) -> None:
    finding = {
        "dataset": "requests",
        "feature": "device",
        "rule": "SKEW_HIGH",
        "description": "Far.",
        "severity": "stop",
    }
    skew = {"requests": 1_200, "looked_at": 1_000, "findings": []}
    (run / "skew.json").write_text(json.dumps(skew))
    assert "Of 1,200 logged requests 1,000 were compared with the training span: nothing against" in page_of(run).text
    (run / "skew.json").write_text(json.dumps(skew | {"findings": [finding]}))
    assert "requests, device: Far. (SKEW_HIGH)" in page_of(run).text


def test_five_shoppers_without_pictures_are_shown(run: Path) -> None:
    page = page_of(run)
    assert len(page.of("article", "shopper")) == 5
    assert not page.of("img")
    # One of three recommendations and one of two chosen products are marked, for each shopper.
    assert len(page.of("li", "hit")) == 10
    assert "2 interactions before the cut-off. Of 2 chosen afterwards, 1 stood among these 3." in page.text


def test_pictures_are_embedded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(buffer, format="JPEG")
    products = [{**product, "image": buffer.getvalue()} for product in PRODUCTS]
    page = page_of(write_run(tmp_path / "run", products, EXAMPLES[:1]))
    # Two in the history, three recommended, two chosen.
    assert len(page.of("img")) == 7


def test_picture_that_cannot_be_read_is_left_out_and_counted(tmp_path: Path) -> None:
    products = [{**product, "image": b"\x89PNG no picture"} for product in PRODUCTS]
    page = page_of(write_run(tmp_path / "run", products, EXAMPLES))
    assert not page.of("img")
    assert "6 pictures of the catalogue cannot be read" in page.text


def test_hostile_titles_ids_and_categories_are_text(tmp_path: Path) -> None:
    products = [{"item_id": f"{HOSTILE}{n}", "title": HOSTILE if n else "", "category": HOSTILE} for n in range(3)]
    ids = [product["item_id"] for product in products]
    run = write_run(tmp_path / "run", products, [{"history": ids, "recommended": ids, "truth": ids}])
    change_metrics(run, lambda content: content["dataset"].update(name=HOSTILE))
    page = page_of(run)
    assert not page.of("script")
    assert page.text.count(HOSTILE) > 10


def test_product_that_the_catalogue_lacks_is_shown_by_its_id(tmp_path: Path) -> None:
    example = {"history": ["p0"], "recommended": ["nowhere-42"], "truth": ["p1"]}
    assert "nowhere-42" in page_of(write_run(tmp_path / "run", PRODUCTS, [example])).text


def test_run_without_examples_says_so(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run", PRODUCTS, None)).text
    assert "Not measured: the evaluation left no examples.json." in text


def test_what_could_not_be_read_of_products_is_shown(run: Path) -> None:
    text = page_of(run).text
    assert "What products lack, and what could not be read of them" in text
    assert "With a price of 0, which is read as no price" in text


def test_data_without_a_clock_says_so(run: Path) -> None:
    file = run / "steps" / "transform" / "statistics.json"
    statistics = json.loads(file.read_text())
    statistics |= {"has_timestamps": False, "first_timestamp": None, "last_timestamp": None}
    statistics["split"] = {"method": "leave_one_out", "validation_start": None, "test_start": None}
    file.write_text(json.dumps(statistics))
    text = page_of(run).text
    assert "no clock, only an order" in text
    assert "Leave-one-out: each shopper's last interaction is the test" in text


def test_configuration_and_places_are_shown(run: Path) -> None:
    text = page_of(run).text
    assert "ranker.dim 64" in text
    assert str(run / "metrics.json") in text


def test_page_replaces_the_earlier_one_whole(run: Path) -> None:
    write_report(run)
    first = (run / "report.html").read_text()
    (run / "steps" / "train-ranker" / "history.json").write_text("{")
    with pytest.raises(ReportError):
        write_report(run)
    assert (run / "report.html").read_text() == first
    assert not list(run.glob(".report*"))


def test_run_without_metrics_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"no .*metrics\.json: the report needs it\. Run `tandem run` first"):
        write_report(tmp_path)


def test_file_that_is_not_json_is_named(run: Path) -> None:
    (run / "metrics.json").write_text("{")
    with pytest.raises(ReportError, match=r"metrics\.json is not valid JSON: .* run `tandem run` again"):
        write_report(run)


def said(two: float, popularity: float, interval: tuple[float, float] | None = None) -> str:
    """The verdict on these values of recall@10 and NDCG@10."""
    models = {"two_stage": {"recall@10": two, "ndcg@10": two}}
    baseline = {"recent_popularity": {"recall@10": popularity, "ndcg@10": popularity}}
    compared = {"recent_popularity": {"ndcg@10": {"difference": 0.0, "interval": interval}}} if interval else {}
    found = verdict(models_of({**models, "baselines": baseline}), compared)
    return f"{found.headline}. {found.detail}"


@pytest.mark.parametrize(
    ("two", "popularity", "words"),
    [
        (0.3, 0.1, "find 3.0× as many of the next products"),
        (0.102, 0.1, "find about as many of the next products"),
        (0.05, 0.1, "find fewer of the next products than recent popularity: 0.50× as many"),
        (0.2, 0.0, "find 20.0 % of the next products, recent popularity none"),
    ],
)
def test_headline_fits_the_ratio(two: float, popularity: float, words: str) -> None:
    assert words in said(two, popularity)


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.1, 0.2), "better beyond chance"),
        ((-0.2, -0.1), "worse beyond chance"),
        ((-0.1, 0.2), "the difference is within chance (95 % interval: −0.1000 to +0.2000)"),
    ],
)
def test_verdict_minds_the_interval_of_the_difference(interval: tuple[float, float], words: str) -> None:
    assert words in said(0.3, 0.1, interval)


def test_headline_does_not_boast_of_a_difference_within_chance() -> None:
    baseline = {"recent_popularity": {"recall@10": 0.1, "ndcg@10": 0.1}}
    models = models_of({"two_stage": {"recall@10": 0.12, "ndcg@10": 0.1}, "baselines": baseline})
    compared = {"recent_popularity": {"recall@10": {"difference": 0.02, "interval": [-0.01, 0.05]}}}
    assert verdict(models, compared).headline.endswith("the difference is within chance")


def test_verdict_without_two_stages_says_that_nothing_was_measured() -> None:
    assert verdict(models_of({"baselines": metrics()["baselines"]}), {}).headline.startswith("Not measured")


def test_baselines_are_ordered_from_best_to_worst() -> None:
    names = [model.key for model in models_of(metrics())]
    assert names == ["two_stage", "ranker", "retrieval", "co_occurrence", "recent_popularity"]


def test_colours_follow_the_readers_preference(run: Path) -> None:
    write_report(run)
    assert re.search(r"@media \(prefers-color-scheme: dark\)", (run / "report.html").read_text())


def test_what_vectors_owe_to_each_modality_is_told_by_popularity_and_category(run: Path) -> None:
    text = page_of(run).text
    assert "What the vectors of the retrieval owe to what is known of a product" in text
    assert "All products 60.0 % 40.0 % New (2) 0.0 % 100.0 % Pans (6) 60.0 % 40.0 %" in text
