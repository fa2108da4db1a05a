"""Labelled scenes in memory, for what looks at labels and roles only."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsi_runtime.model.model_file import ClassEntry
from hsi_runtime.scenes.scene import SceneInfo
from hsi_train.data.labelled_scene import LabelledData, LabelledScene


def labelled_scene(
    classes: NDArray[np.int16], row: int = 0, col: int = 0, name: str = "memory.tif"
) -> LabelledScene:
    """Return a scene of one band whose labelled part begins at a row and a column."""
    rows, cols = classes.shape
    return LabelledScene(
        info=SceneInfo(
            path=Path(name),
            driver="memory",
            bands=1,
            rows=row + rows,
            cols=col + cols,
            dtype=np.dtype("float32"),
            nodata=np.full(1, np.nan),
            good=np.ones(1, dtype=bool),
            block=(rows, cols),
        ),
        row=row,
        col=col,
        cube=np.zeros((1, rows, cols), dtype=np.float32),
        valid=np.ones((rows, cols), dtype=bool),
        classes=classes,
        roles=np.zeros((rows, cols), np.uint8),
    )


def labelled_data(classes: int, *scenes: LabelledScene) -> LabelledData:
    """Put scenes together whose classes have the codes 1, 2 and so on."""
    kinds = [
        ClassEntry(code=k + 1, name=f"class {k + 1}", color="#808080")
        for k in range(classes)
    ]
    return LabelledData([*scenes], kinds, np.arange(1), [], [True] * len(scenes))
