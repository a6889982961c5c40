"""The steps of a run, in their order, and what is assembled from them: metrics.json, the export, the report."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Config
from pipeline.runner import CONFIG, Place, Step, StepError, run_steps, step_directory, write_json

if TYPE_CHECKING:
    from trainer.transfer import Transfer
    from trainer.warm_start import Previous


def _transform(config: Config, place: Place) -> None:
    from transform.beam_transform import run_transform

    run_transform(place.data, place.output, config.transform, place.step("transform"))


def _validate(config: Config, place: Place) -> None:
    from pipeline.baseline import blessed_profile
    from transform.validation import run_validation

    schema = Path(config.validate.schema) if config.validate.schema else place.run / "schema"
    blessed = blessed_profile(place.run, config.validate.baseline)
    run_validation(place.step("transform"), schema, place.output, config.validate, place.log_dir("statistics"), blessed)


def _embed_content(config: Config, place: Place) -> None:
    from pipeline.content import embed_content

    # Weights that read pictures are worth something only beside the encoder whose vectors they learned from.
    run = config.warm_start or (config.transfer.run if config.transfer.picture else "")
    earlier = step_directory(Path(run), "embed-content") if run else None
    pictures = "image" in config.transform.content_features
    embed_content(place.step("transform"), place.output, config.content, earlier, pictures)


def _train_retrieval(config: Config, place: Place) -> None:
    from trainer.retrieval_training import train_retrieval

    train_retrieval(
        place.step("embed-content"),
        place.output,
        config.retrieval,
        place.log_dir("retrieval"),
        config.evaluation,
        _previous(config, "train-retrieval"),
    )


def _train_ranker(config: Config, place: Place) -> None:
    from trainer.ranker_training import train_ranker

    train_ranker(
        place.step("embed-content"),
        place.output,
        config.ranker,
        place.log_dir("ranker"),
        config.evaluation,
        _previous(config, "train-ranker"),
    )


def _previous(config: Config, step: str) -> "Previous | Transfer | None":
    """The training of an earlier run that this one starts from."""
    from trainer.transfer import Transfer
    from trainer.warm_start import Previous

    earlier = config.warm_start or config.transfer.run
    if not earlier:
        return None
    previous = Previous(step_directory(Path(earlier), step), step_directory(Path(earlier), "embed-content"))
    return previous if config.warm_start else Transfer(previous, config.transfer)


def _stages(place: Place) -> tuple[Path, Path, Path]:
    return place.step("embed-content"), place.step("train-retrieval"), place.step("train-ranker")


def _train_head(config: Config, place: Place) -> None:
    from trainer.head_training import train_head

    train_head(*_stages(place), place.output, config.head, config.evaluation, place.log_dir("head"))


def _evaluate(config: Config, place: Place) -> None:
    from pipeline.attainable import load_oracle
    from trainer.evaluation import evaluate

    evaluate(
        *_stages(place),
        place.step("train-head"),
        place.output,
        config.evaluation,
        place.log_dir("evaluation"),
        oracle=load_oracle(place.data, place.step("embed-content")),
    )


def _export(config: Config, place: Place) -> None:
    from pipeline.answer_table import PRODUCTS_FILE, write_product_lookup
    from pipeline.projector import write_projector
    from trainer.data import load_catalogue
    from trainer.export import export

    export(*_stages(place), place.step("train-head"), place.output, config.export, place.log_dir("export"))
    write_product_lookup(load_catalogue(place.step("embed-content")), place.output / PRODUCTS_FILE)
    write_projector(place.step("embed-content"), place.step("train-retrieval"), place.log_dir("projector"))


def _embedding_quality(config: Config, place: Place) -> None:
    from pipeline.embedding_quality import write_embedding_quality

    write_embedding_quality(place.data, *_stages(place), place.output, config.transform)


# What the epoch is chosen by: a change of what is only reported trains nothing anew.
_PROTOCOL = ("evaluation.target_types", "evaluation.exclude_seen", "evaluation.seed")

_TRAINING = ("warm_start", "transfer", *_PROTOCOL)

# A step that trains needs validated data, so that an anomaly stops the run before hours are spent.
STEPS: tuple[Step, ...] = (
    Step("transform", (), ("transform",), _transform),
    Step("validate", ("transform",), ("validate",), _validate),
    Step(
        "embed-content", ("transform", "validate"), ("content", "warm_start", "transfer"), _embed_content, resumes=True
    ),
    Step(
        "train-retrieval",
        ("embed-content",),
        ("retrieval", *_TRAINING),
        _train_retrieval,
        resumes=True,
    ),
    Step("train-ranker", ("embed-content",), ("ranker", *_TRAINING), _train_ranker, resumes=True),
    Step(
        "train-head",
        ("embed-content", "train-retrieval", "train-ranker"),
        ("head", *_PROTOCOL, "evaluation.candidates", "evaluation.new_candidates"),
        _train_head,
    ),
    Step("evaluate", ("embed-content", "train-retrieval", "train-ranker", "train-head"), ("evaluation",), _evaluate),
    Step("embedding-quality", ("embed-content", "train-retrieval", "train-ranker"), (), _embedding_quality),
    Step("export", ("embed-content", "train-retrieval", "train-ranker", "train-head"), ("export",), _export),
)


def run(config: Config, data: Path, out: Path) -> None:
    """The whole chain: every step that is not up to date, then metrics.json, the published models and the report.

    The data that the published models come from is what later data is compared with.
    """
    from pipeline.baseline import bless
    from pipeline.publish import publish
    from pipeline.report import write_report

    run_steps(STEPS, config, data, out)
    assemble_metrics(out)
    publish(out)
    bless(out)
    write_report(out)


def assemble_metrics(run: Path) -> Path:
    """RUN/metrics.json from what the steps measured.

    Raises:
        StepError: one of those that measure has not run.
    """
    from pipeline.embedding_quality import MEASURED_FILE, embedding_quality
    from pipeline.skew import read_skew

    config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    metrics = _measured(run, "evaluate", "metrics.json")
    metrics["head"] = _measured(run, "train-head", "head.json")
    metrics["index"] = _measured(run, "export", "index.json")
    metrics["lists"] = _measured(run, "export", "lists.json")
    # Pictures of the report, not figures.
    del metrics["lists"]["examples"]
    metrics["dataset"]["name"] = config["name"]
    metrics["data"] = _measured(run, "validate", "summary.json")
    metrics["data"]["findings"] = _measured(run, "validate", "anomalies.json")
    if (requests := read_skew(run)) is not None:
        metrics["data"]["requests"] = requests
    measured = _measured(run, "embedding-quality", MEASURED_FILE)
    metrics["embedding_quality"] = embedding_quality(measured, metrics, _drifts(run), config["warm_start"])
    path = run / "metrics.json"
    write_json(path, metrics)
    return path


def _drifts(run: Path) -> dict[str, Any]:
    """How far each stage's products moved since an earlier run, of the stages whose training started from one."""
    from trainer.stage_training import DRIFT_FILE

    files = {stage: step_directory(run, f"train-{stage}") / DRIFT_FILE for stage in ("retrieval", "ranker")}
    return {stage: json.loads(file.read_text(encoding="utf-8")) for stage, file in files.items() if file.is_file()}


def _measured(run: Path, step: str, file: str) -> Any:
    path = step_directory(run, step) / file
    if not path.is_file():
        raise StepError(f"{path} is missing: run `tandem {step}` (or `tandem run`) first.")
    return json.loads(path.read_text(encoding="utf-8"))
