import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
from once import Once
from small_model import fixed_provenance

from hsi_runtime.model.model_file import Bands, ClassEntry, Values
from hsi_runtime.scenes.opening import open_scene
from hsi_runtime.scenes.scene import valid_pixels

MATERIALS = ("grass", "conifer", "bright_soil", "water", "asphalt")


class Trained(NamedTuple):
    run: Path
    scene: Path
    truth: Path
    model: Path
    exported: dict[str, Any]


@pytest.fixture(scope="session")
def trained(once: Once) -> Trained:
    """Fit MF2CNet's last layer to a simulated scene, and export it.

    No epoch of training: random filters, the scene's statistics, least squares.
    """
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from hsi_export.exporting import export
    from hsi_train.simulate import SceneSpec, band_centres, write_scene

    def fill(folder: Path) -> None:
        scene, truth, run = (
            folder / name for name in ("scene.tif", "truth.tif", "run")
        )
        spec = SceneSpec(
            rows=43,
            cols=52,
            wavelengths_nm=band_centres(30),
            seed=3,
            materials=MATERIALS,
            nodata_border=True,
        )
        write_scene(spec, scene, truth=truth)
        run.mkdir()
        write_checkpoint(run, scene, truth)
        report = export(run, folder / "model.onnx")
        (folder / "report.json").write_text(json.dumps(report))

    folder = once("trained", fill)
    return Trained(
        run=folder / "run",
        scene=folder / "scene.tif",
        truth=folder / "truth.tif",
        model=folder / "model.onnx",
        exported=json.loads((folder / "report.json").read_text()),
    )


def write_checkpoint(run: Path, scene: Path, truth: Path) -> None:
    """Write a checkpoint of an MF2CNet that knows the classes of a scene."""
    import torch
    from torch import nn

    from hsi_train import methods
    from hsi_train.method import Problem
    from hsi_train.run_folder import checkpoint

    opened = open_scene(scene)
    info = opened.info
    stored = opened.read((0, info.rows), (0, info.cols), np.arange(info.bands))
    opened.close()
    assert info.wavelengths_nm is not None
    valid = valid_pixels(stored, info.nodata)
    with rasterio.open(truth) as file:
        labels = file.read(1)
    codes = [int(code) for code in np.unique(labels) if code]
    counts = [int((labels == code).sum()) for code in codes]
    spectra = stored[:, valid].astype(np.float64)
    mean, deviation = spectra.mean(axis=1), spectra.std(axis=1)
    options = {"features": 8, "hidden": 24, "spectral_stride": 4}
    torch.manual_seed(0)
    problem = Problem(
        band_mean=torch.from_numpy(mean),
        band_std=torch.from_numpy(deviation),
        class_counts=torch.tensor(counts),
        class_means=torch.from_numpy(
            np.stack([spectra[:, labels[valid] == c].mean(axis=1) for c in codes])
        ),
        top=torch.tensor(np.percentile(spectra, 99.9)),
    )
    method = methods.build("mf2cnet", problem, options)
    for layer in method.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            layer.momentum = None  # take one pass as it is, not a running mean
            nn.init.normal_(layer.bias, std=0.1)
            nn.init.normal_(layer.weight, mean=1.0, std=0.1)
    filled = np.where(valid, stored, mean[:, None, None]).astype(np.float32)
    batch = torch.from_numpy(filled)[None]
    last: Any = method.get_submodule("network.head")[-1]  # type: ignore[index]
    seen: list[torch.Tensor] = []
    hook = last.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        method.train().network(batch)
        method.eval().network(batch)
        hook.remove()
        h = method.halo
        inner = torch.from_numpy(labels[h:-h, h:-h].ravel().astype(np.int64))
        hidden = seen[-1][0].flatten(1).T[inner > 0].double()  # (pixel, channel)
        hidden = torch.cat([hidden, torch.ones(len(hidden), 1)], dim=1)
        wanted = inner[inner > 0, None] == torch.tensor(codes)
        solved = torch.linalg.lstsq(hidden, 8 * wanted.double()).solution.float()
        last.weight.copy_(solved[:-1].T[:, :, None, None])
        last.bias.copy_(solved[-1])
    description = checkpoint.Description(
        method="mf2cnet",
        options=methods.all_options("mf2cnet", options),
        classes=[
            ClassEntry(code=c, name=MATERIALS[c - 1], color=f"#{40 * c:02x}80c0")
            for c in codes
        ],
        bands=Bands(
            source_count=info.bands,
            used=list(range(info.bands)),
            wavelengths_nm=info.wavelengths_nm.tolist(),
            fwhm_nm=None if info.fwhm_nm is None else info.fwhm_nm.tolist(),
        ),
        values=Values(
            quantity="reflectance",
            dtype=info.dtype.name,
            scale=[1e-4] * info.bands,
            offset=[0.0] * info.bands,
            fill=mean.tolist(),
        ),
        resolution_m=1.0,
        provenance=fixed_provenance(sum(counts)),
    )
    sample = np.rint(filled).astype(stored.dtype)
    checkpoint.save(run, method, description, sample)
