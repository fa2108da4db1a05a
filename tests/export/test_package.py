import json
import re
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from msgspec.structs import replace
from small_model import with_classes

from hsi_export import package, parity
from hsi_runtime.model.model_file import ClassEntry, ModelDocument, metadata, read_model
from hsi_train.run_folder import checkpoint


def test_deepness_and_geodeep_find_their_keys(trained: Any) -> None:
    # As they read them: by onnxruntime, each value as JSON.
    session = onnxruntime.InferenceSession(trained.model)
    entries = session.get_modelmeta().custom_metadata_map
    assert entries == metadata(trained.model.read_bytes())
    found = {key: json.loads(entries[key]) for key in entries if key != "hsi"}
    document = read_model(trained.model).document
    assert found["model_type"] == "Segmentor"
    assert list(found["class_names"].values()) == [c.name for c in document.classes]
    assert list(found["class_names"]) == ["0", "1", "2", "3"]
    assert found["resolution"] == 100  # cm, of a scene of 1 m
    assert found["tiles_size"] == found["tile_size"] > document.receptive_field
    assert isinstance(found["tile_size"], int)
    assert isinstance(found["tiles_overlap"], int)  # they cut decimals off
    overlap = found["tiles_overlap"] / 100 * found["tiles_size"]
    assert 2 * document.halo <= overlap < 2 * document.halo + 1.28
    assert len(session.get_inputs()) == 1
    assert session.get_inputs()[0].shape[-3] == len(found["standardization_mean"])
    # They compute (value / 255 - mean) / std: stored values must come out again.
    stored = np.array([0.0, 1.0, 9999.0, 65535.0])[:, None]
    mean, std = found["standardization_mean"], found["standardization_std"]
    assert len(mean) == len(std) == 30
    given = (stored / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(given, np.broadcast_to(stored, given.shape), rtol=1e-12)


def test_resolution_that_is_unknown(document: ModelDocument) -> None:
    assert json.loads(package.deepness(document, None)["resolution"]) == 100
    assert json.loads(package.deepness(document, 0.25)["resolution"]) == 25


def test_document_describes_the_checkpoint(trained: Any) -> None:
    loaded = checkpoint.load(trained.run)
    document = read_model(trained.model).document
    described = loaded.description
    assert document.classes == described.classes
    assert document.bands == described.bands
    assert document.values == described.values
    assert document.provenance == described.provenance
    assert document.receptive_field == 13
    assert document.parameters == sum(
        p.numel() for p in loaded.method.network.parameters()
    )
    answer = document.self_test.probabilities.unpack()
    assert answer.shape == (4, 3, 3)
    np.testing.assert_allclose(answer.sum(axis=0), 1, atol=1e-5)


def test_stored_sample_is_where_the_classes_are_least_decided(trained: Any) -> None:
    loaded = checkpoint.load(trained.run)
    document = read_model(trained.model).document
    sample = document.self_test.cube.unpack()
    assert sample.shape == (30, 15, 15)
    whole = parity.reference(loaded.method, loaded.sample[None].astype(np.float32))
    chance = whole["probabilities"][0].astype(np.float64)
    unsure = (chance * (1 - chance)).sum(axis=0)
    rows, cols = unsure.shape
    sums = {
        (row, col): unsure[row : row + 3, col : col + 3].sum()
        for row in range(rows - 2)
        for col in range(cols - 2)
    }
    row, col = max(sums, key=lambda place: sums[place])
    expected = loaded.sample[:, row : row + 15, col : col + 15]
    np.testing.assert_array_equal(sample, expected)
    np.testing.assert_allclose(
        document.self_test.probabilities.unpack(),
        whole["probabilities"][0, :, row : row + 3, col : col + 3],
        atol=1e-5,
    )


@pytest.mark.parametrize(("rows", "cols"), [(1, 3), (2, 1), (1, 1)])
def test_labels_in_few_rows_give_a_smaller_sample(
    trained: Any, rows: int, cols: int
) -> None:
    loaded = checkpoint.load(trained.run)
    strip = loaded.sample[:, : 12 + rows, : 12 + cols]
    window = package.least_decided(replaced(loaded, sample=strip))
    np.testing.assert_array_equal(window, strip)


def test_signing_needs_a_blank_checksum(document: ModelDocument) -> None:
    proto = onnx.ModelProto()
    with pytest.raises(ValueError, match="exactly once"):
        package.assemble(proto, replace(document, checksum="1" * 64), None)


def item_of(document: ModelDocument) -> Any:
    text = json.dumps(package.stac_item(document, Path("x/model.onnx"), 9, "ab" * 32))
    return json.loads(text)


def test_stac_item_beside_the_model(trained: Any) -> None:
    written = json.loads(trained.model.with_suffix(".stac.json").read_text())
    asset = written["assets"]["model"]
    assert asset["file:size"] == trained.model.stat().st_size
    assert asset["file:checksum"] == "1220" + trained.exported["sha256"]
    assert asset["href"] == "./model.onnx"


def test_stac_item_has_what_the_extension_requires(document: ModelDocument) -> None:
    item = item_of(document)
    assert {
        "type",
        "stac_version",
        "id",
        "geometry",
        "properties",
        "assets",
        "links",
    } <= (set(item))
    assert any(e.endswith("/mlm/v1.5.2/schema.json") for e in item["stac_extensions"])
    properties = item["properties"]
    for key in ("name", "architecture", "tasks", "input", "output"):
        assert properties[f"mlm:{key}"], key
    (given,), (found,) = properties["mlm:input"], properties["mlm:output"]
    assert {"name", "bands", "input"} <= set(given)
    assert {"shape", "dim_order", "data_type"} <= set(given["input"])
    assert {"name", "tasks", "result"} <= set(found)
    for part in (given["input"], found["result"]):
        assert len(part["shape"]) == len(part["dim_order"]) == 4
        assert part["data_type"] == "float32"
    place = given["input"]["dim_order"].index("bands")
    assert given["input"]["shape"][place] == len(given["bands"]) == 4
    assert found["result"]["shape"][1] == len(found["classification:classes"]) == 3
    roles = [role for asset in item["assets"].values() for role in asset["roles"]]
    assert "mlm:model" in roles
    assert item["assets"]["model"]["mlm:artifact_type"] == "onnx"
    assert given["bands"][0]["eo:center_wavelength"] == 0.45
    assert given["bands"][0]["eo:full_width_half_max"] == 0.01


def test_stac_class_names_keep_to_the_allowed_letters(document: ModelDocument) -> None:
    names = ["Öl", "grass / trees", "soil (wet)", "草", "a.b", "plain_1-x"]
    classes = [
        ClassEntry(code=n, name=name, color="#112233")
        for n, name in enumerate(names, start=1)
    ]
    item = item_of(with_classes(document, classes))
    listed = item["properties"]["mlm:output"][0]["classification:classes"]
    for entry, name in zip(listed, names, strict=True):
        assert re.fullmatch(r"[0-9A-Za-z_-]+", entry["name"]), entry
        assert entry["title"] == name
        assert re.fullmatch(r"[0-9A-F]{6}", entry["color_hint"])
    assert len({entry["name"] for entry in listed}) == len(names)
    assert listed[-1]["name"] == "plain_1-x"


def test_stac_item_without_wavelengths(document: ModelDocument) -> None:
    bands = replace(document.bands, wavelengths_nm=None, fwhm_nm=None)
    item = item_of(replace(document, bands=bands))
    assert item["properties"]["mlm:input"][0]["bands"][0] == {"name": "B1"}


def test_time_is_that_of_the_build(
    document: ModelDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert item_of(document)["properties"]["datetime"] == "1970-01-02T00:00:00Z"
    assert item_of(document) == item_of(document)
