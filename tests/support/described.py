"""Describes a trained method of which only the sizes matter."""

from typing import Any

from hsi_runtime.model.model_file import Bands, ClassEntry, Provenance, Values
from hsi_train import methods
from hsi_train.run_folder.checkpoint import Description


def described(
    name: str,
    options: dict[str, Any],
    *,
    bands: int,
    classes: int,
    dtype: str,
    members: int = 1,
) -> Description:
    """Return the description of a checkpoint of a method, without wavelengths.

    Args:
        name: Method.
        options: Those that differ from the defaults.
        bands: Number of bands; a missing value counts as 1000 in each.
        classes: Number of classes.
        dtype: Type of the stored values.
        members: Members of an ensemble.
    """
    return Description(
        method=name,
        options=methods.all_options(name, options),
        classes=[
            ClassEntry(code=k + 1, name=f"class {k}", color="#112233")
            for k in range(classes)
        ],
        bands=Bands(
            source_count=bands,
            used=list(range(bands)),
            wavelengths_nm=None,
            fwhm_nm=None,
        ),
        values=Values(
            quantity="unknown",
            dtype=dtype,
            scale=None,
            offset=None,
            fill=[1000.0] * bands,
        ),
        resolution_m=None,
        provenance=Provenance(
            version="0",
            seed=0,
            recipe="",
            data_sha256={},
            counts={},
            overall_accuracy=0.0,
            average_accuracy=0.0,
            kappa=0.0,
        ),
        members=members,
    )
