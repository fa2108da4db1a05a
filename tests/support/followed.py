import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hsi_runtime import pipeline
from hsi_runtime.follow.flight import follow
from hsi_runtime.follow.sources import growing_file
from hsi_runtime.follow_options.options import Following
from hsi_runtime.model.model_file import ModelFile
from hsi_runtime.request import Request

PATIENCE_S = 60


class Follower:
    """Follows a scene in a thread; a test waits for what it tells."""

    def __init__(self, request: Request, model: ModelFile) -> None:
        self.events: list[dict[str, Any]] = []
        self.stop = threading.Event()
        self._told = threading.Condition()
        self._pool = ThreadPoolExecutor(1)
        self._result = self._pool.submit(
            follow, request, model, tell=self._tell, stop=self.stop
        )

    def _tell(self, line: str) -> None:
        with self._told:
            self.events.append(json.loads(line))
            self._told.notify_all()

    def wait_for_row(self, row: int) -> None:
        """Wait until the rows before one are in the live map."""

        def there() -> bool:
            rows = [e["rows"][1] for e in self.events if "classes" in e]
            return max(rows, default=0) >= row or self._result.done()

        with self._told:
            assert self._told.wait_for(there, PATIENCE_S)
        if self._result.done():
            self._result.result()

    def result(self) -> dict[str, Any]:
        return self._result.result(PATIENCE_S)

    def close(self) -> None:
        self.stop.set()
        self._pool.shutdown()


@pytest.fixture
def start_following(
    tmp_path: Path, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Follower]]:
    """Follow ``flight.bil`` into ``live.tif``."""
    # Cameras of tests count no lines in a header before the last one.
    monkeypatch.setattr(growing_file, "SETTLE_S", 0.1)
    started: list[Follower] = []

    def start(scene: str = "flight.bil", **options: Any) -> Follower:
        options.setdefault("follow", Following(idle_s=30.0))
        request = Request(tmp_path / scene, tmp_path / "live.tif", **options)
        started.append(Follower(request, model))
        return started[-1]

    yield start
    for follower in started:
        follower.close()


@pytest.fixture
def assert_as_batch(tmp_path: Path, model: ModelFile) -> Callable[..., None]:
    """Run the scene as a batch, and compare all the bytes that both published."""

    def compare(scene: str = "flight.bil", **options: Any) -> None:
        request = Request(tmp_path / scene, tmp_path / "batch.tif", **options)
        pipeline.run(request, model)
        made = sorted(path.name for path in tmp_path.glob("batch*"))
        assert made
        for name in made:
            live = tmp_path / name.replace("batch", "live")
            assert live.read_bytes() == (tmp_path / name).read_bytes(), name
        assert not list(tmp_path.glob("*.hsi-*"))

    return compare
