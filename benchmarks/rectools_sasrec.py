"""Times RecTools' SASRec (PyTorch). Runs in an environment of its own: imports nothing of Tandem or TensorFlow.

    python rectools_sasrec.py WINDOWS.npz LENGTH DIM BLOCKS HEADS BATCH EPOCHS

WINDOWS.npz holds `rows` [windows, length + 1] (0 = padding): one user a window, so that both sides train on exactly
the same sequences. Prints one JSON line: seconds of each epoch.
"""

import json
import sys
import time
from typing import ClassVar

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import rectools
import torch
from rectools.dataset import Dataset
from rectools.models import SASRecModel


class EpochClock(lightning.Callback):
    """Seconds of each training epoch; kept by the class, because RecTools trains with a copy of the trainer."""

    seconds: ClassVar[list[float]] = []

    def on_train_epoch_start(self, *_: object) -> None:
        self._started = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        self.seconds.append(time.perf_counter() - self._started)


def interactions(rows: np.ndarray) -> pd.DataFrame:
    """One row per item of each window, with its place as the time."""
    window, place = np.nonzero(rows)
    frame = {"user_id": window, "item_id": rows[window, place], "weight": 1.0}
    return pd.DataFrame({**frame, "datetime": pd.Timestamp("2000-01-01") + pd.to_timedelta(place, unit="s")})


def main() -> None:
    path, *numbers = sys.argv[1:]
    length, dim, blocks, heads, batch, epochs = map(int, numbers)

    def trainer() -> lightning.Trainer:
        return lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[EpochClock()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    model = SASRecModel(
        n_blocks=blocks,
        n_heads=heads,
        n_factors=dim,
        session_max_len=length,
        loss="softmax",
        batch_size=batch,
        epochs=epochs,
        get_trainer_func=trainer,
    )
    model.fit(Dataset.construct(interactions(np.load(path)["rows"])))
    versions = {"rectools": rectools.__version__, "torch": torch.__version__}
    print(json.dumps({"seconds": EpochClock.seconds, "threads": torch.get_num_threads(), **versions}))


if __name__ == "__main__":
    main()
