"""Puts the contract into an ONNX graph and signs the file; describes it as STAC MLM."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hsi_export.cost import Cost
from hsi_export.parity import Limits, reference
from hsi_runtime.model.array import Array
from hsi_runtime.model.model_file import (
    BFLOAT16_KEY,
    INPUT_NAME,
    METADATA_KEY,
    PASSED,
    PROBABILITIES,
    UNSIGNED,
    ModelDocument,
    Precision,
    SelfTest,
    sign,
)
from hsi_runtime.output.stac import classification_classes, timestamp
from hsi_train.layers import parameter_count
from hsi_train.run_folder.checkpoint import Checkpoint

SELF_TEST_OUTPUTS = 3  # side of the classified square of the stored sample, px
# QGIS-Deepness crops tiles of this side and feeds them to the graph.
DEEPNESS_TILE = 128
MLM = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
EO = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"


def document(
    trained: Checkpoint,
    limits: Limits,
    precision: Precision,
    pixel_cost: Cost,
) -> ModelDocument:
    """Write the contract of a checkpoint, with its checksum still blank.

    Args:
        trained: Checkpoint with the description of the model.
        limits: Largest difference from torch of a healthy engine.
        precision: Precision of the graph.
        pixel_cost: Memory and arithmetic of one pixel.
    """
    window = least_decided(trained)
    answer = reference(trained.method, window.astype(np.float32)[None])
    described, spectra = trained.description, trained.method.endmembers()
    return ModelDocument(
        schema_version=1,
        method=described.method,
        receptive_field=trained.method.receptive_field,
        classes=described.classes,
        bands=described.bands,
        values=described.values,
        reject_below=described.reject_below,
        set_levels=described.set_levels,
        training=described.training,
        outputs=list(trained.method.outputs),
        endmembers=None if spectra is None else Array.pack(spectra.float().numpy()),
        endmember_scale="peak" if spectra is None else "stored",
        precision=precision,
        parameters=parameter_count(trained.method.network),
        macs_per_pixel=pixel_cost.macs,
        working_bytes=pixel_cost.working_bytes,
        provenance=described.provenance,
        self_test=SelfTest(
            cube=Array.pack(window),
            probabilities=Array.pack(answer[PROBABILITIES][0]),
            tolerance=limits.max_abs_difference,
        ),
        checksum=UNSIGNED,
    )


def least_decided(trained: Checkpoint) -> NDArray[Any]:
    """Cut out the part of the sample in which an engine's errors show the most.

    Where one class has all the probability, an engine may compute very wrong scores
    and still give the same probabilities.

    Returns:
        Stored units, shape ``(band, row, col)``, for `SELF_TEST_OUTPUTS` squared
        pixels; for fewer, where labels lie in so few rows or columns.
    """
    answer = reference(trained.method, trained.sample.astype(np.float32)[None])
    shares = answer[PROBABILITIES][0]  # (class, row, col)
    spread = (shares * (1 - shares)).sum(axis=0)
    rows, cols = (min(SELF_TEST_OUTPUTS, n) for n in spread.shape)
    total = sliding_window_view(spread, (rows, cols)).sum(axis=(2, 3))
    row, col = np.unravel_index(total.argmax(), total.shape)
    more = trained.method.receptive_field - 1
    part = trained.sample[:, row : row + more + rows, col : col + more + cols]
    return np.ascontiguousarray(part)


def assemble(
    proto: Any,
    contract: ModelDocument,
    resolution_m: float | None,
    bfloat16: bool = False,
) -> bytes:
    """Add all metadata to a graph and sign the file.

    Args:
        proto: Traced ``onnx.ModelProto``.
        contract: Model document with a blank checksum.
        resolution_m: Pixel size of the training scene; None if unknown.
        bfloat16: Whether the comparison with torch passed in bfloat16, too.

    Returns:
        The bytes of the model file.
    """
    entries = {
        METADATA_KEY: msgspec.json.encode(contract).decode(),
        **deepness(contract, resolution_m),
        **({BFLOAT16_KEY: PASSED} if bfloat16 else {}),
    }
    onnx.helper.set_model_props(proto, entries)
    return sign(proto.SerializeToString(deterministic=True))


def deepness(contract: ModelDocument, resolution_m: float | None) -> dict[str, str]:
    """Write the keys that QGIS-Deepness and GeoDeep read; values are JSON.

    They divide stored values by 255 before they standardise. Mean 0 and deviation
    1/255 undo that, because normalisation is inside our graph. The side of a tile has
    two names: that of Deepness' documentation, and that of its code. Overlap is a whole
    percentage, of which each of two neighbours gives up half.
    """
    bands = len(contract.bands.used)
    keys: dict[str, Any] = {
        "model_type": "Segmentor",
        "class_names": {str(i): c.name for i, c in enumerate(contract.classes)},
        "resolution": 100 * resolution_m if resolution_m else 100,
        "tiles_size": DEEPNESS_TILE,
        "tile_size": DEEPNESS_TILE,
        "tiles_overlap": math.ceil(100 * 2 * contract.halo / DEEPNESS_TILE),
        "standardization_mean": [0.0] * bands,
        "standardization_std": [1 / 255] * bands,
    }
    return {key: json.dumps(value) for key, value in keys.items()}


def stac_item(contract: ModelDocument, path: Path, size: int, sha256: str) -> Any:
    """Describe the model file as a STAC item with the Machine Learning Model extension.

    The time is that of the export, or ``SOURCE_DATE_EPOCH``.
    """
    classes = classification_classes(contract.classes)
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, CLASSIFICATION, EO, FILE],
        "id": f"{contract.method}-{contract.checksum[:12]}",
        "geometry": None,
        "properties": {
            "datetime": timestamp(),
            "mlm:name": f"hsi-edge-{contract.method}",
            "mlm:architecture": contract.method,
            "mlm:framework": "ONNX",
            "mlm:tasks": ["semantic-segmentation"],
            "mlm:total_parameters": contract.parameters,
            "mlm:accelerator": None,
            "mlm:input": [_input(contract)],
            "mlm:output": [
                {
                    "name": name,
                    "tasks": ["semantic-segmentation"],
                    "result": {
                        "shape": [-1, len(classes), -1, -1],
                        "dim_order": ["batch", "class", "height", "width"],
                        "data_type": "float32",
                    },
                    "classification:classes": classes,
                    "post_processing_function": None,
                }
                for name in contract.outputs
            ],
        },
        "assets": {
            "model": {
                "href": f"./{path.name}",
                "type": "application/octet-stream; application=onnx",
                "title": "Model file of hsi-edge",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": "onnx",
                "file:size": size,
                "file:checksum": f"1220{sha256}",
            }
        },
        "links": [],
    }


def _input(contract: ModelDocument) -> dict[str, Any]:
    """Describe the graph's input, with its bands."""
    bands = [_band(contract, i) for i in range(len(contract.bands.used))]
    return {
        "name": INPUT_NAME,
        "bands": bands,
        "input": {
            "shape": [-1, len(bands), -1, -1],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "pre_processing_function": None,
    }


def _band(contract: ModelDocument, index: int) -> dict[str, Any]:
    source = contract.bands.used[index]
    band: dict[str, Any] = {"name": f"B{source + 1}"}
    if contract.bands.wavelengths_nm is not None:
        band["eo:center_wavelength"] = contract.bands.wavelengths_nm[index] / 1000
    if contract.bands.fwhm_nm is not None:
        band["eo:full_width_half_max"] = contract.bands.fwhm_nm[index] / 1000
    return band
