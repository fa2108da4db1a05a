"""Hostile and broken models, through the command: exit 4, and nothing is opened."""

import ctypes
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hsi_runtime.cli import main
from hsi_runtime.model import graph_check, graph_sizes
from hsi_runtime.model.array import Array
from hsi_runtime.model.graph_sizes import Sizes
from hsi_runtime.model.model_file import UNSIGNED, sign
from hsi_runtime.model.protobuf import Reader

WEIGHTS = np.zeros((3, 4, 5, 5), np.float32)
HUGE = 2**40

IN_ACCESS, IN_OPEN = 1, 0x20  # of inotify(7)


class Place(NamedTuple):
    """A folder with a scene and a good model; a secret outside, and its guard."""

    folder: Path
    good: bytes
    secret: Path
    touched: Callable[[], bool]


@pytest.fixture
def place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_scene_tiff: Callable[..., Path],
    write_model: Callable[..., Path],
    cube: NDArray[Any],
) -> Iterator[Place]:
    """Watch the secret: Linux reports whoever opens it, by whatever name."""
    if not sys.platform.startswith("linux"):
        pytest.skip("needs inotify")
    folder, outside = tmp_path / "here", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    secret = outside / "weights.bin"
    secret.write_bytes(WEIGHTS.tobytes())
    write_scene_tiff(folder / "scene.tif", cube)
    good = write_model(tmp_path / "good.onnx").read_bytes()
    monkeypatch.chdir(folder)
    c = ctypes.CDLL(None, use_errno=True)
    events = c.inotify_init1(os.O_NONBLOCK)
    assert events >= 0
    assert c.inotify_add_watch(events, bytes(secret), IN_ACCESS | IN_OPEN) >= 0

    def touched() -> bool:
        try:
            return bool(os.read(events, 4096))
        except BlockingIOError:
            return False

    yield Place(folder, good, secret, touched)
    os.close(events)


def test_guard_sees_who_opens_the_secret(place: Place) -> None:
    assert not place.touched()
    for link, name in ((os.link, "hard"), (os.symlink, "soft")):
        link(place.secret, place.folder / name)
        assert not place.touched()
        assert (place.folder / name).read_bytes() == WEIGHTS.tobytes()
        assert place.touched()
    assert not place.touched()


def resigned(good: bytes, change: Callable[[Any], None]) -> bytes:
    """Change a model and sign it again, as anybody can: the checksum fits."""
    proto = onnx.load_from_string(good)
    change(proto)
    for entry in proto.metadata_props:
        if entry.key == "hsi":
            content = json.loads(entry.value) | {"checksum": UNSIGNED}
            entry.value = json.dumps(content)
    return sign(proto.SerializeToString(deterministic=True))


Change = Callable[[Any], None]


def at(location: str) -> Callable[[Place], Change]:
    """Put the weights into another file."""

    def change(proto: Any) -> None:
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        placed = {"location": location, "offset": "0", "length": "1200"}
        for key, value in placed.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return lambda place: change


def absolute(place: Place) -> Change:
    return at(str(place.secret))(place)


def symlink(place: Place) -> Change:
    (place.folder / "weights.bin").symlink_to(place.secret)
    return at("weights.bin")(place)


def hard_link(place: Place) -> Change:
    (place.folder / "weights.bin").hardlink_to(place.secret)
    return at("weights.bin")(place)


def node(*inputs: str, operator: str, **options: Any) -> Callable[[Place], Change]:
    """Add an operator whose result nobody wants."""

    def change(proto: Any) -> None:
        proto.graph.node.append(
            helper.make_node(operator, inputs, ["unused"], "added", **options)
        )

    return lambda place: change


def sized(operator: str, *before: str) -> Callable[[Place], Change]:
    """Add an operator whose result is as large as a constant says."""

    def change(proto: Any) -> None:
        sizes = numpy_helper.from_array(np.array([HUGE // 2**10, 2**10]), "sizes")
        proto.graph.initializer.append(sizes)
        proto.graph.node.append(
            helper.make_node(operator, [*before, "sizes"], ["unused"], "added")
        )

    return lambda place: change


def sized_by_a_node(place: Place) -> Change:
    def change(proto: Any) -> None:
        value = helper.make_tensor("", TensorProto.INT64, [1], [HUGE])
        proto.graph.node.extend(
            [
                helper.make_node("Constant", [], ["sizes"], value=value),
                helper.make_node("ConstantOfShape", ["sizes"], ["unused"]),
            ]
        )

    return change


def computed(
    *before: str, operator: str = "ConstantOfShape"
) -> Callable[[Place], Change]:
    """Add an operator whose size other nodes make of small constants."""

    def change(proto: Any) -> None:
        two = numpy_helper.from_array(np.array([2**20, 2**20]), "two")
        proto.graph.initializer.append(two)
        name = "two"
        for number, way in enumerate(before):
            inputs = [name, "two"] if way in ("Mul", "Add") else [name]
            made = helper.make_node(way, inputs, [f"way{number}"])
            proto.graph.node.append(made)
            name = f"way{number}"
        proto.graph.node.append(helper.make_node(operator, [name], ["unused"]))

    return lambda place: change


def long_range(place: Place) -> Change:
    def change(proto: Any) -> None:
        for name, value in (("from", 0), ("to", 2**40), ("by", 1)):
            proto.graph.initializer.append(
                numpy_helper.from_array(np.array(value), name)
            )
        proto.graph.node.append(
            helper.make_node("Range", ["from", "to", "by"], ["unused"])
        )

    return change


def computed_range(place: Place) -> Change:
    def change(proto: Any) -> None:
        for name, value in (("from", 0), ("by", 1), ("much", 2**20)):
            proto.graph.initializer.append(
                numpy_helper.from_array(np.array(value), name)
            )
        proto.graph.node.extend(
            [
                helper.make_node("Mul", ["much", "much"], ["to"]),
                helper.make_node("Range", ["from", "to", "by"], ["unused"]),
            ]
        )

    return change


def endless_loop(place: Place) -> Change:
    def change(proto: Any) -> None:
        kept = helper.make_node("Identity", ["going"], ["still"])
        ends = [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        ]
        still = [helper.make_tensor_value_info("still", TensorProto.BOOL, [])]
        body = helper.make_graph([kept], "body", ends, still)
        proto.graph.initializer.extend(
            [
                numpy_helper.from_array(np.array(2**62), "times"),
                numpy_helper.from_array(np.array(True), "yes"),
            ]
        )
        proto.graph.node.append(
            helper.make_node("Loop", ["times", "yes"], [], body=body)
        )

    return change


def promising(place: Place) -> Change:
    """Promise more weights than there are."""

    def change(proto: Any) -> None:
        proto.graph.initializer[0].dims[:] = [3, 4, 5, HUGE]

    return change


def wider(place: Place) -> Change:
    """Let the document promise another receptive field than the graph has."""

    def change(proto: Any) -> None:
        for entry in proto.metadata_props:
            if entry.key == "hsi":
                content = json.loads(entry.value)
                answer = np.zeros((3, 5, 5), np.float32)
                packed = msgspec.to_builtins(Array.pack(answer))
                content["self_test"]["probabilities"] = packed
                entry.value = json.dumps(content | {"receptive_field": 3})

    return change


def unknown(place: Place) -> Change:
    def change(proto: Any) -> None:
        proto.graph.node[1].op_type = "Backdoor"

    return change


def foreign_set(place: Place) -> Change:
    def change(proto: Any) -> None:
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    return change


def ranks(end: str, sizes: list[int | str]) -> Callable[[Place], Change]:
    def change(proto: Any) -> None:
        value = getattr(proto.graph, end)[0]
        value.CopyFrom(
            helper.make_tensor_value_info(value.name, TensorProto.FLOAT, sizes)
        )

    return lambda place: change


def weights_of_rank_three(place: Place) -> Change:
    def change(proto: Any) -> None:
        tensor = numpy_helper.from_array(WEIGHTS[0], "weights")
        proto.graph.initializer[0].CopyFrom(tensor)

    return change


def schema(version: int) -> Callable[[Place], Change]:
    def change(proto: Any) -> None:
        for entry in proto.metadata_props:
            if entry.key == "hsi":
                content = json.loads(entry.value) | {"schema_version": version}
                entry.value = json.dumps(content)

    return lambda place: change


HOSTILE: dict[str, tuple[Callable[[Place], Change], str]] = {
    "weights above": (at("../outside/weights.bin"), "in another file"),
    "weights above, roundabout": (at("a/../../outside/weights.bin"), "another file"),
    "weights at an absolute path": (absolute, "in another file"),
    "weights in the process": (at("/proc/self/environ"), "in another file"),
    "weights behind a symlink": (symlink, "in another file"),
    "weights behind a hard link": (hard_link, "in another file"),
    "foreign operator": (
        node("cube", operator="Run", domain="com.example"),
        "the operator Run of 'com.example'",
    ),
    "foreign operator set": (foreign_set, "operators of 'com.microsoft'"),
    "operator that nobody has": (unknown, "refused by"),
    "random numbers": (
        node(operator="RandomNormal", shape=[2]),
        "RandomNormal would give another map each time",
    ),
    "input of three axes": (ranks("input", [1, 4, "height"]), "promises 'cube'"),
    "input of five axes": (ranks("input", [1, 4, "h", "w", 1]), "promises 'cube'"),
    "output of two axes": (ranks("output", [1, 3]), "promises 'probabilities'"),
    "weights of three axes": (weights_of_rank_three, "refused by"),
    "weights of no bytes": (promising, "'weights' promise"),
    "huge constant": (sized("ConstantOfShape"), "values of one constant"),
    "huge expansion": (sized("Expand", "bias"), "values of one constant"),
    "huge constant of a node": (sized_by_a_node, "values of one constant"),
    "size behind Identity": (computed("Identity"), "a size that the graph computes"),
    "size behind Mul": (computed("Mul"), "a size that the graph computes"),
    "size behind Add": (computed("Add", "Identity"), "a size that the graph computes"),
    "size as it is": (computed(), "values of one constant"),
    "long range": (long_range, "values of one constant"),
    "computed range": (computed_range, "a limit that the graph computes"),
    "endless loop": (endless_loop, "Loop may run for ever"),
    "huge padding": (
        node("cube", operator="MaxPool", kernel_shape=[1, 1], pads=[0, 0, 2**30, 0]),
        "MaxPool would make axes of 1073741824",
    ),
    "receptive field of another graph": (wider, "promises (3, "),
    "older schema": (schema(0), "schema version 0; this hsi-run reads version 1"),
    "newer schema": (schema(2), "schema version 2; this hsi-run reads version 1"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_hostile_model_is_refused_and_opens_nothing(
    case: str,
    device: str,
    place: Place,
    invoke: Any,
    digests: Any,
    need_engine: Callable[[str], None],
) -> None:
    need_engine(device)
    make, message = HOSTILE[case]
    data = resigned(place.good, make(place))
    (place.folder / "x.onnx").write_bytes(data)
    before = digests(place.folder)
    place.touched()  # the lines above read the links
    given = ("scene.tif", "-m", "x.onnx", "--device", device, "-q")
    code, out, err = invoke(main, *given)
    assert not place.touched()
    assert (code, out) == (4, ""), err
    assert message in err
    assert err.count("\n") == 1
    assert digests(place.folder) == before


def test_good_model_signed_again_runs(place: Place, invoke: Any) -> None:
    data = resigned(place.good, lambda proto: None)
    (place.folder / "x.onnx").write_bytes(data)
    assert invoke(main, "scene.tif", "-m", "x.onnx").code == 0


@pytest.mark.parametrize(
    ("sizes", "accepted"),
    [
        ([graph_sizes.MAX_VALUES], True),
        ([graph_sizes.MAX_VALUES + 1], False),
        ([-1, 1, 2**29], False),
        ([-1, 1, 2**28], True),
    ],
)
def test_sizes_up_to_a_limit_are_left_to_the_engine(
    sizes: list[int], accepted: bool
) -> None:
    one = helper.make_node("Expand", ["a", "sizes"], ["b"])
    for tensor in (
        numpy_helper.from_array(np.array(sizes), "sizes"),
        helper.make_tensor("sizes", TensorProto.INT64, [len(sizes)], sizes),
    ):
        body = helper.make_graph([one], "g", [], [], [tensor])
        checked = memoryview(body.SerializeToString())
        reader = Reader()
        if accepted:
            graph_check._check_graph(reader, checked, Sizes(reader), 0)
        else:
            with pytest.raises(ValueError, match="values of one constant"):
                graph_check._check_graph(reader, checked, Sizes(reader), 0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_model_is_refused(share: float, place: Place, invoke: Any) -> None:
    data = place.good[: int(share * len(place.good))]
    (place.folder / "x.onnx").write_bytes(data)
    code, out, err = invoke(main, "scene.tif", "-m", "x.onnx", "-q")
    assert (code, out) == (4, ""), err
    assert err.count("\n") == 1


def test_flipped_bytes_at_a_hundred_places_are_refused(
    place: Place, invoke: Any, digests: Any
) -> None:
    draw = random.Random(7)
    path = place.folder / "x.onnx"
    for _ in range(100):
        damaged = bytearray(place.good)
        where = draw.randrange(len(damaged))
        damaged[where] ^= draw.randrange(1, 256)
        path.write_bytes(damaged)
        code, out, err = invoke(main, "scene.tif", "-m", "x.onnx", "-q")
        assert (code, out) == (4, ""), (where, err)
        assert err.count("\n") == 1
    assert set(digests(place.folder)) == {"scene.tif", "x.onnx"}
