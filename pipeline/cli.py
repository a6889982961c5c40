"""The command `tandem`: parses arguments and calls one function; every user's mistake ends in one sentence."""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pipeline.chain import STEPS
from pipeline.config import Config, load_config
from pipeline.serving_flags import ServeFlags, add_serve_flags
from trainer.config import IndexKind

if TYPE_CHECKING:
    from pipeline.batch_recommend import Kind

_TRANSFERRED = ("picture", "attributes", "network")
_TARGET = "127.0.0.1:8500"
_DATA_HELP = "folder of canonical tables (events.parquet, items.parquet), as import and simulate make them"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command. Returns the exit status.

    0, 1 for a mistake that is explained, 2 for wrong arguments, 3 for data that the guards stop, 4 if data has moved
    and that was asked for, 130 for Ctrl-C.
    """
    parser = _parser()
    parsed = parser.parse_args(arguments)
    _quieten()
    try:
        status: int | None = parsed.function(parsed)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, RuntimeError, TimeoutError) as error:
        if parsed.debug:
            raise
        print(f"error: {error}\n(`tandem --debug {parsed.command} …` shows where it arose)", file=sys.stderr)
        # A server that was run for the user and has ended passes its own status on.
        return getattr(error, "exit_status", 1)
    return status or 0


def _quieten() -> None:
    """Our progress to the terminal; of the libraries, warnings only."""
    # TensorFlow's C++ side reports the processor and absent GPUs, at level ERROR; its real errors are exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Google's client libraries, which Beam imports, announce the end of Python 3.11's life at each import.
    warnings.filterwarnings("ignore", category=FutureWarning, module="google.api_core")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    # Beam asks for crcmod although google-crc32c, which does the same, is there; and takes Python's module `resource`
    # for missing where packages for another use of its model handlers are.
    noise = ("crcmod package not found", "Resource module is not available")
    handler.addFilter(lambda record: not str(record.msg).startswith(noise))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # It warns of traced functions; one trace per window length is meant.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    for ours in ("pipeline", "transform", "trainer", "serving"):
        logging.getLogger(ours).setLevel(logging.INFO)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tandem", description="A two-stage recommender for online shops: clickstream in, ranked products out."
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_simulate(commands)
    _add_import(commands)
    run = _command(commands, "run", _run, "the whole chain: reads --data, writes models, metrics and report to --out")
    _add_chain_arguments(run)
    _add_index(run)
    for step in STEPS:
        reads = ", ".join(step.needs) or "--data"
        one = _command(commands, step.name, _step, f"one step: reads {reads}; writes RUN/steps/{step.name}")
        _add_chain_arguments(one)
        if step.name == "export":
            _add_index(one)
        if step.name == "validate":
            _add_validate(one)
    publish = _command(commands, "publish", _publish, "reads RUN/steps/export; writes RUN/export/<model>/<version>")
    publish.add_argument("run", type=Path, metavar="RUN")
    _add_refresh(commands)
    _add_transfer(commands)
    report = _command(commands, "report", _report, "reads a run's results; writes RUN/metrics.json, RUN/report.html")
    report.add_argument("run", type=Path, metavar="RUN")
    _add_skew(commands)
    _add_serve(commands)
    _add_recommend(commands)
    _add_batch(commands)
    _add_bench(commands)
    return parser


def _command(commands: argparse._SubParsersAction, name: str, function: object, about: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(function=function)
    return parser


def _add_chain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default=None, help="YAML file, or the name of a shipped configuration")
    parser.add_argument("--data", type=Path, required=True, help=_DATA_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="changes one key; repeatable"
    )


def _add_validate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{parser.description}. Compares with the last published data (RUN/baseline). Exit status: 0 the data is clean "
        "or there are warnings, 3 it must not be used, 1 the check itself failed"
    )
    parser.add_argument(
        "--baseline", default=None, metavar="RUN", help="compare with another run, short for --set validate.baseline=…"
    )
    parser.add_argument(
        "--retrain-status",
        action="store_true",
        help="exit with 4 where the data is good but has moved by more than validate.retrain_change since the last "
        "blessed run: `tandem run` then trains on it, and does nothing where nothing has changed",
    )
    parser.set_defaults(function=_validate)


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--index",
        choices=(*get_args(IndexKind), "both"),
        default=None,
        help="how the recommender finds candidates, short for --set export.index=…: scann, the fastest, for the "
        "embedded server and a TensorFlow Serving built with ScaNN's ops; portable for a stock TensorFlow Serving; "
        "brute_force, exact, for any server and small catalogues; both writes scann as the model recommender and "
        "portable as recommender_portable",
    )


def _add_simulate(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "simulate", _simulate, "makes a shop with a known truth; writes the tables to OUT")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--products", type=int, default=5_000)
    parser.add_argument("--shoppers", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-pictures", action="store_true", help="draw no product pictures")


def _add_import(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "import", _import, "turns a published or in-house format into canonical tables")
    parser.add_argument("format", choices=("movielens", "sequences", "table"))
    parser.add_argument(
        "sources", type=Path, nargs="+", metavar="SRC", help="file(s), or the folder of a MovieLens set"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for events.parquet, items.parquet …")
    parser.add_argument("--config", default=None, help="column map: a YAML file, or the name of a shipped one")
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="one column, user_id=CustomerID; a constant, type==purchase",
    )
    parser.add_argument("--items", type=Path, default=None, help="file of products (CSV, TSV, JSON lines, Parquet)")
    parser.add_argument("--max-bad-share", type=float, default=0.01, help="stop if more of the rows are bad")


def _add_refresh(commands: argparse._SubParsersAction) -> None:
    about = (
        "brings new, changed and withdrawn products into a run's models without training; reads --items and the run's "
        "steps; writes RUN/steps/refresh, RUN/export/<model>/<version>, RUN/refresh.json and, for bad rows, "
        "RUN/dead_letter/refresh. A second refresh builds on the first. A later `tandem run` over new data starts from "
        "its own transform again: give it the whole catalogue"
    )
    parser = _command(commands, "refresh", _refresh, about)
    parser.add_argument(
        "--items",
        type=Path,
        required=True,
        help="items.parquet in canonical form, or its folder; `available` false withdraws a product",
    )
    parser.add_argument("--run", type=Path, required=True, help="run folder with a finished export")
    parser.add_argument(
        "--max-bad-share", type=float, default=None, help="stop if more of the rows are bad; as in the run's transform"
    )


def _add_transfer(commands: argparse._SubParsersAction) -> None:
    about = (
        "as `run`, but both trainings start from what a run of another shop has learned of words, pictures or "
        "categories; reads FROM and --data, writes --out. Product ids and behaviour are always learned anew"
    )
    parser = _command(commands, "transfer", _transfer, about)
    parser.add_argument("source", type=Path, metavar="FROM", help="run folder with finished trainings")
    _add_chain_arguments(parser)
    _add_index(parser)
    parser.add_argument("--no-text", action="store_true", help="leave words, n-grams and their layers")
    parser.add_argument("--picture", action="store_true", help="take the layers that read pictures")
    parser.add_argument("--attributes", action="store_true", help="take categories, brands and attributes by name")
    parser.add_argument("--network", action="store_true", help="take fusion, towers and transformer")


def _add_skew(commands: argparse._SubParsersAction) -> None:
    about = (
        "compares requests that servers have logged with what the run was trained on; reads --requests, RUN/schema and "
        "RUN/steps/transform; writes RUN/skew.json. Exit status: 0 they are alike or there are warnings, 3 they are "
        "not, 1 the check itself failed"
    )
    parser = _command(commands, "skew", _skew, about)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument(
        "--requests",
        type=Path,
        required=True,
        metavar="PATH",
        help="a log or a folder of logs: *.tfrecord[.gz] of PredictionLog as TensorFlow Serving writes, or *.jsonl "
        "of REST bodies",
    )


def _add_serve(commands: argparse._SubParsersAction) -> None:
    about = (
        "serves RUN/export over gRPC, and REST if told, until Ctrl-C; with TensorFlow Serving it writes "
        "RUN/serving/models.config"
    )
    add_serve_flags(_command(commands, "serve", _serve, about))


def _add_recommend(commands: argparse._SubParsersAction) -> None:
    parser = _command(commands, "recommend", _recommend, "asks a server over gRPC or REST and prints a table")
    parser.add_argument(
        "--target",
        default=None,
        metavar="HOST:PORT",
        help="gRPC port of the server; 127.0.0.1:8500 if --rest-target is not given either",
    )
    parser.add_argument(
        "--rest-target",
        default=None,
        metavar="HOST:PORT",
        help="REST port, or a URL: asked where --target cannot be reached, or alone without --target",
    )
    parser.add_argument("--version-label", default=None, metavar="LABEL", help="ask the version of this label")
    parser.add_argument(
        "--tls-root-certificate", default=None, metavar="PEM", help="encrypt; who signed the server's certificate"
    )
    parser.add_argument("--tls-certificate", default=None, metavar="PEM", help="encrypt; the client's certificate")
    parser.add_argument("--tls-key", default=None, metavar="PEM", help="key of --tls-certificate")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--history", default="", help="product ids, oldest first, separated by commas")
    who.add_argument("--user", default=None, help="a shopper of the run's data, instead of --history")
    beside = parser.add_mutually_exclusive_group()
    beside.add_argument("--similar-to", default=None, metavar="ID", help="products like this one instead")
    beside.add_argument(
        "--complementary-to", default=None, metavar="ID", help="products of other categories that go with this one"
    )
    _add_filter(parser)
    parser.add_argument("-k", type=int, default=20, help="how many")
    parser.add_argument(
        "--run", type=Path, default=Path("runs/demo"), help="run whose products and shoppers are looked up"
    )
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds")


def _add_filter(parser: argparse.ArgumentParser) -> None:
    given = parser.add_argument_group("what recommended products must be", "all that is given must hold")
    given.add_argument(
        "--category", action="append", default=[], metavar="PATH", help="of this category, any level; repeatable"
    )
    given.add_argument("--brand", action="append", default=[], metavar="NAME", help="of this brand; repeatable")
    given.add_argument("--price-min", type=float, default=None, metavar="PRICE", help="lowest price")
    given.add_argument("--price-max", type=float, default=None, metavar="PRICE", help="highest price")
    given.add_argument("--allow", action="append", default=None, metavar="ID", help="one of these; repeatable")
    given.add_argument("--include-unavailable", action="store_true", help="unavailable products, too")


def _add_batch(commands: argparse._SubParsersAction) -> None:
    job = (
        "as one Beam job: reads RUN's newest published model and its data; writes shards, _MANIFEST.json and _SUCCESS "
        "to --out. A killed job, run again, does only the shards that are missing"
    )
    about = f"what the server would recommend to every shopper of a run, or to those of a list, {job}"
    recommend = _command(commands, "batch-recommend", _batch_recommend, about)
    _add_batch_arguments(recommend)
    recommend.add_argument(
        "--users", type=Path, default=None, metavar="FILE", help="only these: one id a line, or a Parquet column"
    )
    recommend.add_argument(
        "--unknown-as-new",
        action="store_true",
        help="answer those of --users that the data do not have as new visitors; else they are counted and left out",
    )
    recommend.add_argument(
        "--timestamp", type=int, default=None, metavar="SECONDS", help="time that the lists are for, since 1970"
    )
    similar = _command(
        commands, "batch-similar", _batch_similar, f"products like each available product of a run, {job}"
    )
    _add_batch_arguments(similar)
    similar.add_argument(
        "--complementary", action="store_true", help="products of other categories that go with it instead"
    )


def _add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder; its suffix may tell the format")
    parser.add_argument("--format", choices=("parquet", "jsonl", "tfrecord"), default=None, help="else parquet")
    parser.add_argument("-k", type=int, default=20, help="how many products")
    parser.add_argument("--model", default="recommender", help="name of the published model")
    parser.add_argument("--batch-size", type=int, default=128, help="rows that the model is asked for at once")
    parser.add_argument("--shard-size", type=int, default=4_096, help="rows of a shard")
    parser.add_argument("--restart", action="store_true", help="throw away shards that were made for something else")
    parser.add_argument("--runner", default=None, help="Beam runner; else the local one with a thread a core")
    parser.add_argument(
        "--beam-option",
        action="append",
        default=[],
        metavar="--NAME=VALUE",
        help="for Beam, as --beam-option=--NAME=VALUE; repeatable",
    )


def _add_bench(commands: argparse._SubParsersAction) -> None:
    bench = commands.add_parser("bench", help="measurements").add_subparsers(
        dest="measurement", required=True, metavar="MEASUREMENT"
    )
    about = (
        "sends requests to a running server at stated rates, whether or not it keeps up, and shows latencies, errors "
        "and what the server used; reads the shoppers of --run or --histories; writes --out/bench.json and bench.html"
    )
    parser = _command(bench, "serve", _bench_serve, about)
    parser.add_argument("--target", default=_TARGET, metavar="HOST:PORT", help="gRPC port of any Predict server")
    parser.add_argument("--run", type=Path, default=None, help="run whose shoppers ask")
    parser.add_argument("--histories", type=Path, default=None, metavar="FILE", help="JSON lines of shoppers instead")
    parser.add_argument("--model", default="recommender")
    parser.add_argument("--signature", default="recommend")
    parser.add_argument("-k", "--k", type=int, default=20, help="products that an answer must have (--verify)")
    parser.add_argument("--rates", default="", metavar="R,R,…", help="requests a second, one load each")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load")
    parser.add_argument("--even", action="store_true", help="evenly spaced requests, not as shoppers come (Poisson)")
    parser.add_argument("--closed-loop", default="", metavar="N,N,…", help="callers that wait for each answer, too")
    parser.add_argument("--find-capacity", action="store_true", help="look for the largest rate that keeps --p99-ms")
    parser.add_argument("--p99-ms", type=float, default=50.0, help="for --find-capacity, which allows no error")
    parser.add_argument("--verify", action="store_true", help="an answer with fewer products than -k is an error")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds")
    parser.add_argument("--callers", type=int, default=256, help="requests that may be under way at once")
    parser.add_argument("--channels", type=int, default=2, help="connections")
    parser.add_argument("--server-pid", type=int, default=None, help="the server's process, if it is not found by port")
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="folder for the results")


def _simulate(parsed: argparse.Namespace) -> None:
    from transform.simulator import SimulatorConfig, simulate

    config = SimulatorConfig(
        products=parsed.products,
        shoppers=parsed.shoppers,
        events=parsed.events,
        days=parsed.days,
        seed=parsed.seed,
        pictures=not parsed.no_pictures,
    )
    simulate(parsed.out, config)


def _import(parsed: argparse.Namespace) -> None:
    from pipeline.importing import run_import

    run_import(
        parsed.format,
        parsed.sources,
        parsed.out,
        config=parsed.config,
        columns=parsed.map,
        items=parsed.items,
        max_bad_share=parsed.max_bad_share,
    )


def _run(parsed: argparse.Namespace) -> None:
    from pipeline.chain import run

    run(_config(parsed), parsed.data, parsed.out)


def _config(parsed: argparse.Namespace) -> Config:
    index = getattr(parsed, "index", None)
    return load_config(parsed.config, parsed.overrides + ([f"export.index={index}"] if index else []))


def _transfer(parsed: argparse.Namespace) -> None:
    chosen = {"text": not parsed.no_text, **{name: getattr(parsed, name) for name in _TRANSFERRED}}
    parsed.overrides += [f"transfer.run={json.dumps(str(parsed.source))}"]
    parsed.overrides += [f"transfer.{name}={json.dumps(value)}" for name, value in chosen.items()]
    _run(parsed)


def _step(parsed: argparse.Namespace) -> None:
    from pipeline.runner import run_steps

    run_steps(STEPS, _config(parsed), parsed.data, parsed.out, only=parsed.command)


def _validate(parsed: argparse.Namespace) -> int:
    from pipeline.runner import step_directory
    from transform.findings import RETRAIN_STATUS
    from transform.validation import SUMMARY_FILE

    if parsed.baseline:
        parsed.overrides += [f"validate.baseline={json.dumps(parsed.baseline)}"]
    _step(parsed)
    summary = json.loads((step_directory(parsed.out, "validate") / SUMMARY_FILE).read_text(encoding="utf-8"))
    return RETRAIN_STATUS if parsed.retrain_status and summary["retrain"] else 0


def _skew(parsed: argparse.Namespace) -> None:
    from pipeline.skew import skew

    skew(parsed.run, parsed.requests)


def _publish(parsed: argparse.Namespace) -> None:
    from pipeline.publish import publish

    publish(parsed.run)


def _refresh(parsed: argparse.Namespace) -> None:
    from pipeline.refresh import refresh, summary

    print(summary(refresh(parsed.items, parsed.run, parsed.max_bad_share)))


def _report(parsed: argparse.Namespace) -> None:
    from pipeline.chain import assemble_metrics
    from pipeline.report import write_report

    assemble_metrics(parsed.run)
    print(write_report(parsed.run))


def _serve(parsed: argparse.Namespace) -> None:
    from pipeline.serve import serve

    serve(ServeFlags(**{flag.name: getattr(parsed, flag.name) for flag in fields(ServeFlags)}))


def _recommend(parsed: argparse.Namespace) -> None:
    from pipeline.recommend import Beside, recommend
    from serving.client import Filter, RecommenderClient, Tls

    beside = None
    if parsed.similar_to:
        beside = Beside(parsed.similar_to, "similar")
    elif parsed.complementary_to:
        beside = Beside(parsed.complementary_to, "complementary")
    history = [part.strip() for part in parsed.history.split(",") if part.strip()]
    given = Filter(
        parsed.category, parsed.brand, parsed.price_min, parsed.price_max, parsed.allow, parsed.include_unavailable
    )
    # Where nothing is given, the plain question is asked, which every model answers.
    restriction = None if given == Filter([], []) else given
    tls = Tls(parsed.tls_root_certificate, parsed.tls_certificate, parsed.tls_key)
    with RecommenderClient(
        parsed.target or (None if parsed.rest_target else _TARGET),
        parsed.timeout,
        version_label=parsed.version_label,
        tls=None if tls == Tls() else tls,
        rest_target=parsed.rest_target,
    ) as client:
        print(recommend(client, history, parsed.user, parsed.k, parsed.run, beside, restriction))


def _batch_recommend(parsed: argparse.Namespace) -> None:
    _batch(parsed, "recommend", users=parsed.users, unknown_as_new=parsed.unknown_as_new, timestamp=parsed.timestamp)


def _batch_similar(parsed: argparse.Namespace) -> None:
    _batch(parsed, "complementary_items" if parsed.complementary else "similar_items")


def _batch(parsed: argparse.Namespace, kind: "Kind", **more: Any) -> None:
    from pipeline.batch_recommend import LOCAL_THREADS, BatchOptions, batch_recommend, summary
    from transform.config import BeamConfig

    beam = LOCAL_THREADS
    if parsed.runner or parsed.beam_option:
        beam = BeamConfig(parsed.runner or beam.runner, tuple(parsed.beam_option))
    names = ("run", "out", "k", "model", "format", "batch_size", "shard_size", "restart")
    options = BatchOptions(kind=kind, beam=beam, **{name: getattr(parsed, name) for name in names}, **more)
    print(summary(batch_recommend(options), parsed.out))


def _bench_serve(parsed: argparse.Namespace) -> None:
    from pipeline.bench_serve import BenchOptions, bench_serve

    options = BenchOptions(
        target=parsed.target,
        run=parsed.run,
        histories=parsed.histories,
        model=parsed.model,
        signature=parsed.signature,
        k=parsed.k,
        rates=tuple(float(rate) for rate in parsed.rates.split(",") if rate),
        seconds=parsed.seconds,
        poisson=not parsed.even,
        closed_loop=tuple(int(callers) for callers in parsed.closed_loop.split(",") if callers),
        find_capacity=parsed.find_capacity,
        p99_ms=parsed.p99_ms,
        verify=parsed.verify,
        timeout=parsed.timeout,
        callers=parsed.callers,
        channels=parsed.channels,
        server_pid=parsed.server_pid,
        out=parsed.out,
    )
    bench_serve(options)


if __name__ == "__main__":
    sys.exit(main())
