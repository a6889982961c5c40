"""Follows the models.config on disk: what is written there comes into force, what is wrong in it is said once."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.errors import RequestError, ServingError
from serving.model_config import read_model_server_config

_LOG = logging.getLogger(__name__)


class ConfigFileFollower:
    """Reads a file every so many seconds and hands over what has changed."""

    def __init__(self, path: Path, seconds: float, apply: Callable[[ModelServerConfig], object]) -> None:
        """Reads nothing before `start`.

        Args:
            path: the models.config, whose content at `start` is in force already.
            seconds: between two looks.
            apply: puts a configuration in force, or raises RequestError and leaves the last one.
        """
        self._path = path
        self._seconds = seconds
        self._apply = apply
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="model-config", daemon=True)
        self._applied: ModelServerConfig | None = None
        self._complaint = ""

    def start(self) -> None:
        """Begins to follow the file."""
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._stopping.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stopping.wait(self._seconds):
            try:
                config = read_model_server_config(self._path)
                if config != self._applied:
                    self._apply(config)
                    _LOG.info("%s is in force", self._path)
            except (ServingError, RequestError, OSError) as error:
                # It is tried again: a label's version may have been loaded by then.
                if str(error) != self._complaint:
                    _LOG.error("%s is not put in force, the last configuration stays: %s", self._path, error)
                self._complaint = str(error)
                continue
            self._applied, self._complaint = config, ""
