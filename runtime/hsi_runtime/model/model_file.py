"""The contract: a ``.onnx`` file whose metadata says all the runtime must know.

The document is JSON under the metadata key ``hsi``. Every field is required and an
unknown one is an error, so nothing is ever guessed. The file is read once as bytes,
its checksum is verified, and the engine is created from those same bytes.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from hsi_runtime.errors import ModelFileError
from hsi_runtime.files import read_whole
from hsi_runtime.model.array import Array, Part
from hsi_runtime.model.protobuf import Reader, messages, text
from hsi_runtime.model.training import Training
from hsi_runtime.scenes.scene import DTYPES, usable_units

METADATA_KEY = "hsi"
# Beside the document: a proof that an export may or may not have been able to give.
BFLOAT16_KEY, PASSED = "hsi_bfloat16", "passed"
SCHEMA_VERSION = 1
INPUT_NAME = "cube"
PROBABILITIES = "probabilities"
ABUNDANCES = "abundances"
MAX_BYTES = 2 * 1024**3  # the format's own limit for one file
MOST_ENTRIES = 100_000  # fields outside the graph
DATA_TABLE = re.compile(r"^\[data\]$.*?(?=^\[|\Z)", re.MULTILINE | re.DOTALL)
UNSIGNED = "0" * 64  # stands for the checksum while the checksum is computed

Positive = Annotated[int, Meta(ge=1)]
Precision = Literal["fp32", "fp16"]
EndmemberScale = Literal["peak", "stored"]
Color = Annotated[str, Meta(pattern="^#[0-9a-f]{6}$")]


class ClassEntry(Part, frozen=True):
    """One class.

    Attributes:
        code: Its value in labels and class maps.
        name: What it is called.
        color: ``#rrggbb``.
    """

    code: Annotated[int, Meta(ge=1, le=65534)]
    name: str
    color: Color


class Bands(Part, frozen=True):
    """Bands of the training scene, and which of them the network needs.

    Attributes:
        source_count: Bands of the scene.
        used: 0-based indices of the network's bands in the scene, in its order.
        wavelengths_nm: Their centres, or null where the scene had none.
        fwhm_nm: Their widths, or null.
    """

    source_count: Positive
    used: list[int]
    wavelengths_nm: list[float] | None
    fwhm_nm: list[float] | None


class Values(Part, frozen=True):
    """What the numbers of a cube mean; lists run over the used bands.

    Attributes:
        quantity: Such as ``reflectance``, ``radiance`` or ``unknown``.
        dtype: Type of the stored values of the training scene.
        scale: Quantity = stored * scale + offset; null where not declared.
        offset: See ``scale``.
        fill: Stored value that stands for a missing one.
    """

    quantity: str
    dtype: str
    scale: list[float] | None
    offset: list[float] | None
    fill: list[float]


class Provenance(Part, frozen=True):
    """Where the weights come from.

    Attributes:
        version: Version of hsi-edge that trained them.
        seed: Random seed of the training run.
        recipe: The resolved recipe, TOML.
        data_sha256: Checksum of each scene and label file, by file name.
        counts: Pixels by role: train, validation, test.
        overall_accuracy: On the held-out test pixels; None where all pixels train.
        average_accuracy: On the held-out test pixels.
        kappa: On the held-out test pixels.
    """

    version: str
    seed: int
    recipe: str
    data_sha256: dict[str, str]
    counts: dict[str, int]
    overall_accuracy: float | None
    average_accuracy: float | None
    kappa: float | None

    @property
    def from_spectra(self) -> bool:
        """True if single spectra trained, which have no scene around them."""
        # Not parsed: tomllib takes the square of a key's parts in time.
        table = DATA_TABLE.search(self.recipe)
        return table is not None and "\nspectra = " in table[0]


class SelfTest(Part, frozen=True):
    """A real window and what training computed for it.

    Attributes:
        cube: Stored units, shape ``(band, row, col)``.
        probabilities: By torch in fp32, shape ``(class, row - 2 halo, col - 2 halo)``.
        tolerance: Largest difference in probability a healthy engine shows.
    """

    cube: Array
    probabilities: Array
    tolerance: float


class SetLevel(Part, frozen=True):
    """How likely a class must be so that it cannot be excluded.

    Attributes:
        level: Share of pixels whose set of such classes holds the right one.
        threshold: Smallest probability of a class of the set; the best class always
            belongs to it.
    """

    level: Annotated[float, Meta(gt=0, lt=1)]
    threshold: Annotated[float, Meta(ge=0, le=1)]


class ModelDocument(Part, frozen=True, omit_defaults=True):
    """All that a runtime must know of a model.

    Attributes:
        schema_version: Version of this document's schema.
        method: Name of the method that was trained.
        receptive_field: Side of the square that decides about its centre, px; odd.
        classes: Classes, in the order of the graph's class axis.
        bands: Bands that the network needs.
        values: What the numbers of a cube mean.
        reject_below: Confidence below which a pixel is better left unclassified, as
            validation pixels suggest; null where they cannot tell. Applied only when
            the user asks.
        outputs: Names of the graph's outputs.
        endmembers: Spectra that abundances refer to, shape ``(class, band)``; null
            where the model does not unmix.
        precision: Precision of the weights in the graph.
        parameters: Number of weights.
        macs_per_pixel: Multiplications of the layers for each pixel of a window.
        working_bytes: Memory that the graph holds at once for each pixel of a window.
        provenance: Where the weights come from.
        self_test: A sample with its answer, to try an engine on.
        checksum: SHA-256 of the whole file with this field zeroed.
        set_levels: Sets of classes that validation pixels can promise, lowest level
            first. Left out where there are none, as in files of earlier releases.
        training: What training saw. Left out in files of earlier releases.
        endmember_scale: ``stored`` where endmembers are in stored units and abundances
            are shares of the area; ``peak``, and left out, where each endmember has a
            largest value of one and abundances are shares of coefficients, as in files
            of earlier releases.
    """

    schema_version: Literal[1]
    method: str
    receptive_field: Positive
    classes: list[ClassEntry]
    bands: Bands
    values: Values
    reject_below: Annotated[float, Meta(ge=0, le=1)] | None
    outputs: list[str]
    endmembers: Array | None
    precision: Precision
    parameters: int
    macs_per_pixel: Annotated[float, Meta(ge=0)]
    working_bytes: Annotated[float, Meta(gt=0)]
    provenance: Provenance
    self_test: SelfTest
    checksum: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    set_levels: list[SetLevel] = msgspec.field(default_factory=list)
    training: Training | None = None
    endmember_scale: EndmemberScale = "peak"

    @property
    def halo(self) -> int:
        """Context needed on each side of an output, in pixels."""
        return (self.receptive_field - 1) // 2

    @property
    def unmixes(self) -> bool:
        """True if the model gives abundances, too."""
        return ABUNDANCES in self.outputs

    @property
    def share_meaning(self) -> dict[str, Any] | None:
        """What abundances are shares of; None where the model does not unmix."""
        if not self.unmixes:
            return None
        of = {"stored": "area", "peak": "coefficients"}[self.endmember_scale]
        return {"sum": 1, "share_of": of, "endmember_scale": self.endmember_scale}

    def __post_init__(self) -> None:
        """Refuse a document that contradicts itself."""
        count = len(self.bands.used)
        lists = {
            "bands.wavelengths_nm": self.bands.wavelengths_nm,
            "bands.fwhm_nm": self.bands.fwhm_nm,
            "values.scale": self.values.scale,
            "values.offset": self.values.offset,
            "values.fill": self.values.fill,
        }
        for name, values in lists.items():
            if values is not None and len(values) != count:
                raise ValueError(f"{name} has {len(values)} values for {count} bands")
        if self.values.dtype not in DTYPES:
            raise ValueError(f"values.dtype is {self.values.dtype!r}")
        if (self.values.scale is None) != (self.values.offset is None):
            raise ValueError("values.scale and values.offset must go together")
        if not count or not all(
            0 <= b < self.bands.source_count for b in self.bands.used
        ):
            raise ValueError("bands.used is empty or leaves the source's bands")
        if self.receptive_field % 2 == 0:
            raise ValueError("receptive_field is even")
        if len({c.code for c in self.classes}) < max(len(self.classes), 2):
            raise ValueError("classes are fewer than two or share a code")
        scale, offset = self.values.scale, self.values.offset
        declared = scale is not None and offset is not None
        if declared and not usable_units(np.array(scale), np.array(offset)).all():
            raise ValueError("values.scale and values.offset give no quantity")
        self._check_sample()
        if self.training is not None:
            self.training.check(count, self.receptive_field)
        if PROBABILITIES not in self.outputs:
            raise ValueError(f"outputs lack {PROBABILITIES}")
        spectra = None if self.endmembers is None else self.endmembers.shape
        if spectra != ([len(self.classes), count] if self.unmixes else None):
            raise ValueError(f"endmembers have shape {spectra}, outputs {self.outputs}")

    def _check_sample(self) -> None:
        """Refuse a sample that contradicts the receptive field, bands or classes."""
        cube, answer = self.self_test.cube.shape, self.self_test.probabilities.shape
        edge = 2 * self.halo
        expected = [len(self.classes), *(side - edge for side in cube[1:])]
        if len(cube) != 3 or cube[0] != len(self.bands.used) or answer != expected:
            raise ValueError(
                f"self_test has a cube of {cube} and probabilities of {answer}; with "
                f"receptive_field {self.receptive_field} they contradict each other"
            )

    def check_answer(
        self, window: tuple[int, ...], answer: Mapping[str, NDArray[Any]]
    ) -> None:
        """Compare what a graph gives with what the document promises.

        Args:
            window: Rows and columns of the window that was computed.
            answer: Outputs by name, shape ``(class, row, col)``.

        Raises:
            ModelFileError: A shape is another.
        """
        rows, cols = (side - 2 * self.halo for side in window)
        expected = (len(self.classes), rows, cols)
        for name, values in answer.items():
            if values.shape != expected:
                raise ModelFileError(
                    f"The graph gives {name} of shape {values.shape} where its "
                    f"document, with receptive_field {self.receptive_field}, promises "
                    f"{expected}. Export the run again."
                )


@dataclass(frozen=True)
class ModelFile:
    """A verified model file.

    Attributes:
        path: Where it was read from.
        document: What it says about itself.
        onnx: All its bytes, for the engine.
        sha256: Checksum of those bytes.
    """

    path: Path
    document: ModelDocument
    onnx: bytes
    sha256: str

    @property
    def proved_in_bfloat16(self) -> bool:
        """True if the export's comparison with torch passed in bfloat16, too."""
        return metadata(self.onnx).get(BFLOAT16_KEY) == PASSED


def read_model(path: Path) -> ModelFile:
    """Read and verify a model file.

    Raises:
        ModelFileError: Missing, damaged, not ours, or of another schema version.
    """
    data = read_whole(path, MAX_BYTES, ModelFileError)
    try:
        text = metadata(data).get(METADATA_KEY)
    except ValueError as error:
        raise ModelFileError(f"{path} is not an ONNX file: {error}.") from error
    if text is None:
        raise ModelFileError(
            f"{path} has no metadata {METADATA_KEY!r}: it was not written by "
            "hsi-export, or its metadata was stripped."
        )
    document = _decode(path, text)
    if signature(data, document.checksum) != document.checksum:
        raise ModelFileError(
            f"{path} is damaged: its checksum does not fit. Copy it again."
        )
    return ModelFile(path, document, data, hashlib.sha256(data).hexdigest())


def _decode(path: Path, text: str) -> ModelDocument:
    try:
        version = msgspec.json.decode(text, type=dict[str, Any]).get("schema_version")
        if version != SCHEMA_VERSION:
            raise ModelFileError(
                f"{path} has schema version {version}; this hsi-run reads version "
                f"{SCHEMA_VERSION}. Export the run again, or install the hsi-edge "
                "release that wrote it."
            )
        return msgspec.json.decode(text, type=ModelDocument)
    except (msgspec.DecodeError, RecursionError, AttributeError) as error:
        raise ModelFileError(f"{path}: metadata {METADATA_KEY!r}: {error}.") from error


def signature(data: bytes, checksum: str) -> str:
    """Hash a whole file with its own checksum blanked.

    Graph and document are covered alike. The checksum must occur once.
    """
    if data.count(checksum.encode()) != 1:
        return ""
    blank = data.replace(checksum.encode(), UNSIGNED.encode())
    return hashlib.sha256(blank).hexdigest()


def sign(data: bytes) -> bytes:
    """Put the checksum in the place of the blank one."""
    if data.count(UNSIGNED.encode()) != 1:
        raise ValueError("the blank checksum must occur exactly once")
    digest = hashlib.sha256(data).hexdigest()
    return data.replace(UNSIGNED.encode(), digest.encode())


def metadata(data: bytes) -> dict[str, str]:
    """Read the metadata of an ONNX file without the onnx package.

    An ONNX file is a protocol-buffer message; field 14 of ``ModelProto`` repeats
    messages of a key (field 1) and a value (field 2).

    Raises:
        ValueError: The bytes are no such message.
    """
    reader = Reader(MOST_ENTRIES)
    content = reader.fields(data)
    if len(messages(content, 7)) != 1:  # 7 is the graph
        raise ValueError("it holds no graph")
    entries = [reader.fields(entry) for entry in messages(content, 14)]
    return {text(entry, 1): text(entry, 2) for entry in entries}
