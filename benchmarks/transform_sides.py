"""One side of benchmarks/transform_speed.py in a process of its own. Prints one JSON line: seconds without imports, by
the clock and of the processor (all processes that have ended).

    python -m benchmarks.transform_sides tandem|plain DATA OUTPUT [--previous OUTPUT] [--beam-options …]

`plain` reads the starts of the spans from the `tandem` output beside it (OUTPUT/../tandem).
"""

import argparse
import json
import os
import time
from pathlib import Path

from benchmarks.plain_beam import plain_transform
from transform.beam_transform import STATISTICS_FILE, run_transform
from transform.clock import MINUTE
from transform.config import BeamConfig, TransformConfig
from transform.interactions import Rules
from transform.tables import EVENT_TYPES


def rules_of(tandem: Path) -> Rules:
    """The shipped rules with the cuts that the transform found."""
    config = TransformConfig()
    split = json.loads((tandem / STATISTICS_FILE).read_text())["split"]
    return Rules(
        has_timestamps=True,
        session_gap_seconds=config.session_gap_minutes * MINUTE,
        history_types=frozenset(EVENT_TYPES[name] for name in config.history_types),
        cuts=(split["validation_start"], split["test_start"]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["tandem", "plain"])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--previous", type=Path, help="of tandem: output that the days read before are taken from")
    parser.add_argument("--beam-options", nargs="*", default=[])
    wanted = parser.parse_args()
    wanted.output.mkdir()
    started, spent = time.perf_counter(), sum(os.times()[:4])
    if wanted.side == "tandem":
        options = tuple(f"--{option}" for option in wanted.beam_options)
        run_transform(wanted.data, wanted.output, TransformConfig(beam=BeamConfig(options=options)), wanted.previous)
    else:
        rules = rules_of(wanted.output.parent / "tandem")
        plain_transform(wanted.data / "events.parquet", wanted.data / "items.parquet", wanted.output, rules)
    print(json.dumps({"seconds": time.perf_counter() - started, "processor": sum(os.times()[:4]) - spent}))


if __name__ == "__main__":
    main()
