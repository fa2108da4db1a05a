import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from camera import Camera, tall_cube

from hsi_runtime.errors import ModelFileError, OutputError
from hsi_runtime.follow.live.events import Alerts, Events
from hsi_runtime.follow_options.options import Alert, Following
from hsi_runtime.model.model_file import ModelDocument
from hsi_runtime.output.layers import Counts


def test_lines_go_to_a_file(tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "events.jsonl"
    for number in range(2):
        with Events(told.append, str(path)) as events:
            events.send({"event": "classified", "rows": (0, number)})
    lines = path.read_text().splitlines()
    assert lines == told
    assert [json.loads(line)["rows"] for line in lines] == [[0, 0], [0, 1]]
    assert all(json.loads(line)["time"] > 1e9 for line in lines)


def test_lines_go_to_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with Events(lambda _: None, f"unix:{path}") as events:
            connection, _ = server.accept()
            events.send({"event": "end"})
            with connection, connection.makefile() as lines:
                assert json.loads(lines.readline())["event"] == "end"
            events.send({"event": "ignored"})
            events.send({"event": "ignored"})


def test_a_reader_that_goes_away_ends_only_its_own_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    def gone(line: str) -> None:
        raise BrokenPipeError("gone")

    path = tmp_path / "events.jsonl"
    with Events(gone, str(path)) as events:
        events.send({"event": "a"})
        events.send({"event": "b"})
    assert len(path.read_text().splitlines()) == 2
    assert caplog.text.count("Nobody takes the lines") == 1
    assert not told


@pytest.mark.parametrize("target", ["no/folder/e.jsonl", "unix:no/socket"])
def test_a_target_that_is_not_there(tmp_path: Path, target: str) -> None:
    name = target.replace("no", str(tmp_path / "no"), 1)
    with pytest.raises(OutputError, match="cannot be written"):
        Events(lambda _: None, name).__enter__()


def test_a_class_of_interest(document: ModelDocument, tmp_path: Path) -> None:
    wanted = (Alert("wet soil", 0.5), Alert("7", 0.1))
    alerts = Alerts(wanted, (), document.classes)
    counts = Counts([5, 3, 1], unclassified=0, nodata=1)
    assert alerts.of((0, 1), counts) == [
        {"event": "class", "rows": (0, 1), "code": 7, "name": "Öl", "share": 0.1}
    ]
    counts = Counts([0, 5, 0], unclassified=0, nodata=5)
    assert [e["code"] for e in alerts.of((0, 1), counts)] == [3]


def test_a_class_that_is_absent_is_no_alert(document: ModelDocument) -> None:
    alerts = Alerts((Alert("grass", 0.0),), (), document.classes)
    assert not alerts.of((0, 1), Counts([0, 5, 5]))


def test_a_class_that_no_model_has(document: ModelDocument) -> None:
    with pytest.raises(ModelFileError, match="no class 'lava'; it has grass, wet soil"):
        Alerts((Alert("lava"),), (), document.classes)


def test_a_command_is_run_one_at_a_time(
    document: ModelDocument, tmp_path: Path
) -> None:
    path = tmp_path / "said"
    gate = tmp_path / "gate"
    script = (
        f'echo "$HSI_CLASS $HSI_CODE $HSI_ROWS $HSI_SHARE" >> {path}; '
        f"while [ ! -e {gate} ]; do sleep 0.01; done"
    )
    alerts = Alerts((Alert("Öl"),), ("sh", "-c", script), document.classes)
    counts = Counts([5, 0, 5])
    assert [e["command"] for e in alerts.of((3, 4), counts)] == ["started"]
    wait_for(path.is_file)
    assert [e["command"] for e in alerts.of((4, 5), counts)] == ["busy"]
    gate.touch()
    wait_for(lambda: alerts.of((5, 6), counts)[0]["command"] == "started")
    wait_for(lambda: len(path.read_text().splitlines()) == 2)
    assert path.read_text().splitlines()[0] == "Öl 7 3,4 0.5"


def test_a_command_that_is_not_there_is_told_once(
    document: ModelDocument, caplog: pytest.LogCaptureFixture
) -> None:
    alerts = Alerts((Alert("Öl"),), ("no-such-command",), document.classes)
    assert alerts.of((3, 4), Counts([5, 0, 5]))[0]["command"] == "failed"
    assert "command" not in alerts.of((4, 5), Counts([5, 0, 5]))[0]
    assert caplog.text.count("no-such-command cannot be run") == 1


def test_alerts_of_a_flight(
    tmp_path: Path, start_following: Callable[..., Any]
) -> None:
    camera = Camera(tmp_path, tall_cube(100))
    follower = start_following(
        follow=Following(idle_s=30.0, on_class=(Alert("grass", 0.0),))
    )
    camera.finish()
    follower.result()
    kinds = [e["event"] for e in follower.events]
    alerts = [e for e in follower.events if e["event"] == "class"]
    grass = [e for e in follower.events if e.get("classes", {}).get("2")]
    assert [e["rows"] for e in alerts] == [e["rows"] for e in grass]
    assert kinds.index("class") == kinds.index("classified") + 1


def wait_for(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError(done)
