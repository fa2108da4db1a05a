import base64
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from msgspec.structs import replace
from numpy.typing import NDArray

from hsi_runtime.errors import ModelFileError
from hsi_runtime.model import model_file
from hsi_runtime.model.array import Array
from hsi_runtime.model.model_file import (
    ModelDocument,
    SetLevel,
    metadata,
    read_model,
    sign,
)

WriteModel = Callable[..., Path]
ARRAY_DTYPES = get_args(get_type_hints(Array)["dtype"])


@pytest.fixture(scope="session")
def model_bytes(
    write_model: WriteModel, tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx").read_bytes()


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as error:
        read_model(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_model_reads_back(
    write_model: WriteModel, document: ModelDocument, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "model.onnx")
    model = read_model(path)
    assert model.onnx == path.read_bytes()
    assert model.document.halo == 2
    same = replace(
        model.document, self_test=document.self_test, checksum=document.checksum
    )
    assert same == document


def test_metadata_equals_what_the_onnx_package_reads(model_bytes: bytes) -> None:
    expected = {
        p.key: p.value for p in onnx.load_from_string(model_bytes).metadata_props
    }
    assert metadata(model_bytes) == expected
    assert {"hsi", "class_names", "resolution"} <= set(expected)


@given(st.dictionaries(st.text(max_size=9), st.text(max_size=300), max_size=5))
def test_metadata_of_any_content(entries: dict[str, str]) -> None:
    proto = onnx.ModelProto(ir_version=10, producer_name="x" * 200, model_version=-1)
    proto.graph.name = "g"
    onnx.helper.set_model_props(proto, entries)
    assert metadata(proto.SerializeToString()) == entries


@given(st.binary(max_size=200))
def test_metadata_of_any_bytes_is_read_or_refused(data: bytes) -> None:
    try:
        found = metadata(data)
    except ValueError:
        return
    assert all(isinstance(v, str) for v in found.values())


def test_every_flipped_bit_is_caught(
    model_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_bytes)
    read_model(path)
    text = metadata(model_bytes)["hsi"].encode()
    start = model_bytes.index(text) - 10
    checksum = model_bytes.index(json.loads(text)["checksum"].encode())
    # Bytes all over the file, and each bit where the document and its checksum start.
    flips = [(at, at * 5 % 8) for at in range(0, len(model_bytes), 3)]
    flips += [(at, bit) for at in range(start, start + 20) for bit in range(8)]
    flips += [
        (at, bit) for at in range(checksum - 4, checksum + 66) for bit in range(8)
    ]
    damaged = bytearray(model_bytes)
    monkeypatch.setattr(model_file, "read_whole", lambda *_: bytes(damaged))
    for at, bit in flips:
        damaged[at] ^= 1 << bit
        with pytest.raises(ModelFileError):
            read_model(path)
        damaged[at] ^= 1 << bit
    read_model(path)


def test_truncated_and_extended_files_are_caught(
    model_bytes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    for length in [*range(0, len(model_bytes), 29), len(model_bytes) - 1]:
        refused(path, model_bytes[:length])
    for more in (b"\0", b"\n", b"x" * 100, model_bytes):
        refused(path, model_bytes + more)
    # A valid field at the end, which protobuf would merge.
    refused(path, model_bytes + b"\x2a\x01x")


def test_what_is_no_model(tmp_path: Path, write_model: WriteModel) -> None:
    path = tmp_path / "model.onnx"
    for data in (b"", b"a text file\n", b"\x80\x04pickle", b"PK\x03\x04" + bytes(40)):
        assert "not an ONNX file" in refused(path, data)
    foreign = write_model(path, metadata="{}").read_bytes()
    plain = onnx.load_from_string(foreign)
    del plain.metadata_props[:]
    said = refused(path, plain.SerializeToString())
    assert "not written by hsi-export" in said
    assert "schema version None" in refused(path, foreign)
    with pytest.raises(ModelFileError, match=r"nothing\.onnx"):
        read_model(tmp_path / "nothing.onnx")
    with pytest.raises(ModelFileError, match="is a folder"):
        read_model(tmp_path)


def test_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(model_file.MAX_BYTES + 1)
    with pytest.raises(ModelFileError, match="at most 2147483648 are read"):
        read_model(path)


def signed_with(model_bytes: bytes, change: Callable[[Any], None]) -> bytes:
    """Change the document and sign the file again, so that only the schema objects."""
    proto = onnx.load_from_string(model_bytes)
    entries = {p.key: p.value for p in proto.metadata_props}
    content = json.loads(entries["hsi"])
    content["checksum"] = model_file.UNSIGNED
    change(content)
    entries["hsi"] = json.dumps(content)
    onnx.helper.set_model_props(proto, entries)
    data = proto.SerializeToString(deterministic=True)
    return sign(data) if "checksum" in content else data


def test_signing_again_is_accepted(model_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(signed_with(model_bytes, lambda content: None))
    read_model(path)


@pytest.mark.parametrize("version", [0, 2, 99, "1", None, 1.5, [1]])
def test_other_schema_versions(
    version: Any, model_bytes: bytes, tmp_path: Path
) -> None:
    data = signed_with(model_bytes, lambda c: c.update(schema_version=version))
    said = refused(tmp_path / "model.onnx", data)
    assert f"schema version {version}; this hsi-run reads version 1" in said


@pytest.mark.parametrize(
    "field",
    [
        f
        for f in ModelDocument.__struct_fields__
        if f not in ("set_levels", "training", "endmember_scale")
    ],
)
def test_every_field_is_required(
    field: str, model_bytes: bytes, tmp_path: Path
) -> None:
    data = signed_with(model_bytes, lambda c: c.pop(field))
    assert field.replace("_", " ") in refused(tmp_path / "model.onnx", data).replace(
        "_", " "
    )


def test_a_model_of_an_earlier_release_offers_no_sets(
    document: ModelDocument, tmp_path: Path, write_model: WriteModel
) -> None:
    """The field is left out where it is empty, so that such releases read it, too."""
    assert "set_levels" not in json.loads(msgspec.json.encode(document))
    path = write_model(tmp_path / "model.onnx", document)
    assert read_model(path).document.set_levels == []
    level = SetLevel(level=0.9, threshold=0.25)
    path = write_model(tmp_path / "more.onnx", replace(document, set_levels=[level]))
    assert read_model(path).document.set_levels == [level]


def test_what_abundances_of_each_release_are_shares_of(document: ModelDocument) -> None:
    """The field is left out, as in earlier files, where endmembers have a peak of 1."""
    assert document.share_meaning is None
    spectra = Array.pack(
        np.ones((len(document.classes), len(document.bands.used)), "f4")
    )
    unmixing = replace(
        document, outputs=["probabilities", "abundances"], endmembers=spectra
    )
    earlier = json.loads(msgspec.json.encode(unmixing))
    assert "endmember_scale" not in earlier
    read = msgspec.json.decode(json.dumps(earlier), type=ModelDocument)
    assert read.share_meaning == {
        "sum": 1,
        "share_of": "coefficients",
        "endmember_scale": "peak",
    }
    present = replace(unmixing, endmember_scale="stored")
    assert (
        msgspec.json.decode(msgspec.json.encode(present), type=ModelDocument) == present
    )
    assert present.share_meaning is not None
    assert present.share_meaning["share_of"] == "area"


def test_unknown_fields_are_refused(model_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert "surprise" in refused(
        path, signed_with(model_bytes, lambda c: c.update(surprise=1))
    )
    assert "surprise" in refused(
        path, signed_with(model_bytes, lambda c: c["bands"].update(surprise=1))
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["bands"].update(used=[]), "4 values for 0 bands"),
        (lambda c: c["bands"].update(used=[0, 1, 2, 4]), "bands.used"),
        (lambda c: c["bands"].update(used=[0, 1, 2, -1]), "bands.used"),
        (lambda c: c["bands"].update(used=[0, 1]), "4 values for 2 bands"),
        (lambda c: c["values"].update(fill=[1.0]), "values.fill has 1 values"),
        (lambda c: c["values"].update(scale=[1.0]), "values.scale has 1 values"),
        (lambda c: c["values"].update(scale=[1, 0, 1, 1]), "give no quantity"),
        (lambda c: c["values"].update(scale=[1, 1e300, 1, 1]), "give no quantity"),
        (lambda c: c["values"].update(offset=[0, 0, 1e99, 0]), "give no quantity"),
        (lambda c: c.update(receptive_field=3), "receptive_field 3 they contradict"),
        (lambda c: c.update(receptive_field=7), "receptive_field 7 they contradict"),
        (lambda c: c.update(receptive_field=10**9 + 1), "they contradict each other"),
        (
            lambda c: c["self_test"]["cube"].update(shape=[3, 7, 7]),
            "a cube of [3, 7, 7]",
        ),
        (
            lambda c: c["self_test"]["cube"].update(shape=[4, 40_000, 40_000]),
            "an array has 12800000000 bytes",
        ),
        (lambda c: c["values"].update(dtype="<U9"), "dtype"),
        (lambda c: c["values"].update(dtype="nonsense"), "dtype"),
        (lambda c: c["values"].update(offset=None), "scale"),
        (lambda c: c.update(receptive_field=4), "receptive_field is even"),
        (lambda c: c.update(receptive_field=0), "receptive_field"),
        (lambda c: c.update(outputs=[]), "outputs lack probabilities"),
        (lambda c: c["outputs"].append("abundances"), "endmembers have shape None"),
        (lambda c: c.update(reject_below=1.5), "reject_below"),
        (lambda c: c.update(precision="int8"), "precision"),
        (lambda c: c.update(classes=c["classes"][:1]), "classes"),
        (lambda c: c["classes"][1].update(code=2), "share a code"),
        (lambda c: c["classes"][1].update(code=0), "code"),
        (lambda c: c["classes"][1].update(code=65535), "code"),
        (lambda c: c["classes"][1].update(color="red"), "color"),
    ],
)
def test_contradictions_are_refused(
    change: Callable[[Any], None], match: str, model_bytes: bytes, tmp_path: Path
) -> None:
    assert match in refused(tmp_path / "model.onnx", signed_with(model_bytes, change))


def test_checksum_must_occur_once(model_bytes: bytes) -> None:
    with pytest.raises(ValueError, match="exactly once"):
        sign(model_bytes)
    with pytest.raises(ValueError, match="exactly once"):
        sign(2 * model_file.UNSIGNED.encode())


@given(
    st.sampled_from(ARRAY_DTYPES).flatmap(
        lambda d: hnp.arrays(d, hnp.array_shapes(max_dims=4, max_side=5))
    )
)
def test_arrays_pack_and_unpack(values: NDArray[Any]) -> None:
    packed = Array.pack(values)
    again = msgspec.json.decode(msgspec.json.encode(packed), type=Array)
    found = again.unpack()
    assert found.shape == values.shape
    assert found.tobytes() == values.tobytes()


def test_arrays_of_any_byte_order_and_layout_pack() -> None:
    values = np.arange(24, dtype=">i4").reshape(4, 6).T
    found = Array.pack(values).unpack()
    assert found.dtype == np.dtype("<i4")
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2, 2], b"\0" * 15),
        ([2, 2], b"\0" * 17),
        ([2, 2], b"\0" * 50_000_000),  # a bomb: 50 kB deflated
    ],
)
def test_arrays_that_are_not_what_they_say(shape: list[int], data: bytes) -> None:
    import tracemalloc

    packed = base64.b64encode(zlib.compress(data)).decode()
    array = Array(dtype="<f4", shape=shape, data=packed)
    tracemalloc.start()
    with pytest.raises(ModelFileError, match="sample is damaged"):
        array.unpack()
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, "/dev/zero", "/dev/full"])
def test_what_is_no_regular_file_is_not_read(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if isinstance(make, str):
        path.symlink_to(make)
    else:
        make(path)
    with pytest.raises(ModelFileError, match=r"is a folder|is not a regular file"):
        read_model(path)


@pytest.mark.timeout(60)
def test_fields_beyond_those_of_any_model_are_not_read(
    model_bytes: bytes, tmp_path: Path
) -> None:
    # 40 MB of fields of two bytes; and of entries of none.
    for filling in (b"\x08\x01" * 20_000_000, b"\x72\x00" * 20_000_000):
        said = refused(tmp_path / "model.onnx", model_bytes + filling)
        assert "more fields than any model" in said


def test_document_nested_deeply_is_refused(
    write_model: WriteModel, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    for nested in ("[" * 20_000 + "]" * 20_000, '{"a":' * 20_000 + "1" + "}" * 20_000):
        said = refused(path, write_model(path, metadata=nested).read_bytes())
        assert "metadata 'hsi'" in said


@given(st.binary(max_size=300))
def test_any_document_is_refused(content: bytes) -> None:
    with pytest.raises(ModelFileError):
        model_file._decode(Path("m.onnx"), content.decode("utf-8", "replace"))


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=9),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner)
    ),
    max_leaves=8,
)
PATHS = st.lists(st.integers(0, 30), min_size=1, max_size=4)


def altered(content: Any, way: list[int], value: Any) -> None:
    """Replace a value of a document, found by the way to it."""
    for step, number in enumerate(way):
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        if not keys:
            return
        key = keys[number % len(keys)]
        if step == len(way) - 1 or not isinstance(content[key], dict | list):
            content[key] = value
            return
        content = content[key]


def decode_or_refuse(model_bytes: bytes, way: list[int], value: Any) -> None:
    content = json.loads(metadata(model_bytes)["hsi"])
    altered(content, way, value)
    try:
        document = model_file._decode(Path("m.onnx"), json.dumps(content))
        document.self_test.cube.unpack()
        document.self_test.probabilities.unpack()
    except ModelFileError:
        return
    assert document.receptive_field % 2


@settings(max_examples=200)
@given(way=PATHS, value=JSON)
def test_altered_document_is_read_or_refused(
    model_bytes: bytes, way: list[int], value: Any
) -> None:
    decode_or_refuse(model_bytes, way, value)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=200_000)
@given(way=PATHS, value=JSON)
def test_many_altered_documents_are_read_or_refused(
    model_bytes: bytes, way: list[int], value: Any
) -> None:
    decode_or_refuse(model_bytes, way, value)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=200_000)
@given(
    st.integers(0, 2**32),
    st.lists(st.tuples(st.integers(0, 2**32), st.binary(max_size=9))),
)
def test_metadata_of_many_damaged_files_is_read_or_refused(
    model_bytes: bytes, cut: int, patches: list[tuple[int, bytes]]
) -> None:
    data = bytearray(model_bytes[: cut % len(model_bytes) + 1])
    for at, patch in patches:
        data[at % len(data) : at % len(data) + len(patch)] = patch
    try:
        found = metadata(bytes(data))
    except ValueError:
        return
    assert all(isinstance(v, str) for v in found.values())


@pytest.mark.parametrize("data", ["", "?", "AAAA", "eJwD"])
def test_arrays_that_are_no_deflated_bytes(data: str) -> None:
    with pytest.raises(ModelFileError, match="sample is damaged"):
        Array(dtype="|u1", shape=[3], data=data).unpack()
