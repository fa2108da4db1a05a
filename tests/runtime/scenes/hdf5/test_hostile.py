"""Files that lead elsewhere, or promise more than they hold: refused, quickly.

Nothing else is opened meanwhile: the folders of what they name are watched.
"""

import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from opened_files import OpenedFiles

from hsi_runtime.errors import SceneError
from hsi_runtime.scenes.opening import open_scene

Make = Callable[..., Any]
CUBE = "SIMU/Reflectance/Reflectance_Data"
FLETCHER32_OF_NOBODY = 32_500  # a number that no plug-in has


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A file elsewhere that must not be opened."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = folder / "secret.h5"
    with h5py.File(path, "w") as file:
        file["cube"] = np.ones((61, 52, 24), "i2")
    (folder / "secret.raw").write_bytes(bytes(61 * 52 * 24 * 2))
    with OpenedFiles(folder) as opened:
        yield path
        assert opened.names() == set()


def replaced(path: Path, name: str = CUBE) -> Any:
    """Open a file whose cube is gone."""
    file = h5py.File(path, "r+")
    del file[name]
    return file


def refused(path: Path, message: str) -> None:
    with pytest.raises(SceneError, match=message):
        open_scene(path).close()


def test_watching_sees_what_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with OpenedFiles(tmp_path) as opened:
        (tmp_path / "a").read_bytes()
        assert opened.names() == {"a"}


def test_external_link(secret: Path, make: Make) -> None:
    made = make("neon")
    with replaced(made.path) as file:
        file[CUBE] = h5py.ExternalLink(str(secret), "/cube")
    refused(made.path, "Reflectance_Data is a link, which may read another file")


def test_soft_link(secret: Path, make: Make) -> None:
    made = make("neon")
    with replaced(made.path) as file:
        file["way"] = h5py.ExternalLink(str(secret), "/")
        file[CUBE] = h5py.SoftLink("/way/cube")
    refused(made.path, "Reflectance_Data is a link")


def test_site_that_is_an_external_link(secret: Path, tmp_path: Path) -> None:
    path = tmp_path / "linked.h5"
    with h5py.File(path, "w") as file:
        file["SITE"] = h5py.ExternalLink(str(secret), "/")
    refused(path, "SITE is a link")


def test_external_storage(secret: Path, make: Make) -> None:
    made = make("neon")
    raw = str(secret.with_suffix(".raw"))
    with replaced(made.path) as file:
        size = 61 * 52 * 24 * 2
        file.create_dataset(CUBE, (61, 52, 24), "i2", external=[(raw, 0, size)])
    refused(made.path, "Reflectance_Data is raw external storage")


@pytest.mark.parametrize("most", [None, (None, 52, 24)])
def test_virtual_data_set(most: Any, secret: Path, make: Make) -> None:
    made = make("neon")
    layout = h5py.VirtualLayout((61, 52, 24), "i2", maxshape=most)
    source = h5py.VirtualSource(str(secret), "cube", (61, 52, 24), maxshape=most)
    if most is None:
        layout[:] = source
    else:  # whose size depends on the other file
        layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    with replaced(made.path) as file:
        file.create_virtual_dataset(CUBE, layout)
    refused(made.path, "Reflectance_Data is a virtual data set")


@pytest.mark.parametrize(
    "name",
    ["SIMU/Reflectance/Metadata/Spectral_Data/Wavelength", "location/glt_x"],
)
def test_description_elsewhere(name: str, secret: Path, make: Make) -> None:
    made = make("neon" if name.startswith("SIMU") else "emit")
    with replaced(made.path, name) as file:
        file.create_dataset(
            name, (24,), "f8", external=[(str(secret.with_suffix(".raw")), 0, 192)]
        )
    refused(made.path, "is raw external storage")


def test_filter_by_plug_in(secret: Path, make: Make) -> None:
    made = make("neon")
    with replaced(made.path) as file:
        cube = file.create_dataset(
            CUBE,
            (61, 52, 24),
            "i2",
            chunks=(61, 52, 24),
            compression=FLETCHER32_OF_NOBODY,
            allow_unknown_filter=True,
        )
        cube.id.write_direct_chunk((0, 0, 0), bytes(61 * 52 * 24 * 2))
    h5py.h5pl.prepend(str(secret.parent).encode())  # as HDF5_PLUGIN_PATH does
    try:
        refused(made.path, f"encoded by the filter {FLETCHER32_OF_NOBODY}")
        assert h5py.h5pl.get(0) == str(secret.parent).encode()
    finally:
        h5py.h5pl.remove(0)


def test_plug_ins_are_hidden_from_hdf5_itself(secret: Path, make: Make) -> None:
    """Even where HDF5 meets the filter, as in the links of a group."""
    made = make("neon")
    from hsi_runtime.scenes.hdf5.container import Container

    h5py.h5pl.prepend(str(secret.parent).encode())
    try:
        with Container(made.path) as file, file._calls():
            assert not h5py.h5z.filter_avail(FLETCHER32_OF_NOBODY)
    finally:
        h5py.h5pl.remove(0)


@pytest.mark.parametrize("chunks", [None, (64, 64, 24)])
def test_shape_of_many_pixels_without_a_value(chunks: Any, make: Make) -> None:
    made = make("neon")
    with replaced(made.path) as file:
        file.create_dataset(CUBE, (10**6, 10**6, 24), "i2", chunks=chunks)
    refused(made.path, "bytes are stored. Is the file complete")


def test_chunk_larger_than_memory(make: Make) -> None:
    made = make("neon")
    with replaced(made.path) as file:
        shape = 40_000, 40_000, 1
        cube = file.create_dataset(CUBE, shape, "u1", chunks=shape, compression="gzip")
        cube.id.write_direct_chunk((0, 0, 0), bytes(1_000_000))
    refused(made.path, "is stored in chunks of 1,600 MB")


def test_long_list_of_wavelengths(make: Make) -> None:
    made = make("neon")
    name = "SIMU/Reflectance/Metadata/Spectral_Data/Wavelength"
    with replaced(made.path, name) as file:
        file.create_dataset(name, (10**9,), "f8", chunks=(1000,), compression="gzip")
    refused(made.path, "Wavelength")


def test_long_text(make: Make) -> None:
    made = make("tanager")
    name = "HDFEOS INFORMATION/StructMetadata.0"
    with replaced(made.path, name) as file:
        file.create_dataset(name, (), f"S{2**30}")
    refused(made.path, "a short text was expected")


def test_large_attribute(tmp_path: Path) -> None:
    path = tmp_path / "large.h5"
    with h5py.File(path, "w", libver="latest") as file:
        fields = "HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields"
        for name in ("VNIR", "SWIR"):
            file[f"{fields}/{name}_Cube"] = np.ones((9, 4, 9), "u2")
        file.attrs["List_Cw_Vnir"] = np.ones(2**18)
    refused(path, "attribute List_Cw_Vnir has 2097152 bytes")


def test_groups_in_a_circle(tmp_path: Path) -> None:
    path = tmp_path / "circle.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("a/b/c")
        for number in range(3000):
            group[f"up{number}"] = file["a"]
    with pytest.raises(SceneError) as caught:
        open_scene(path)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("product", ["neon", "prisma", "emit"])
def test_truncated_anywhere(product: str, make: Make) -> None:
    made = make(product)
    data = made.path.read_bytes()
    for share in np.linspace(0.001, 0.999, 25):
        made.path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(SceneError):
            open_scene(made.path)


def test_lists_and_texts_of_another_type(make: Make) -> None:
    made = make("prisma")
    with h5py.File(made.path, "r+") as file:
        file.attrs["List_Cw_Vnir"] = "not numbers"
    refused(made.path, "attribute List_Cw_Vnir holds no numbers")


def test_changed_bytes_end_in_an_error_of_ours_or_a_scene(make: Make) -> None:
    """Not in a crash, which would end the process: so in a process of its own."""
    made = make("neon")
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from hsi_runtime.errors import HsiError\n"
        "from hsi_runtime.scenes.opening import open_scene\n"
        "path = Path(sys.argv[1])\n"
        "data = path.read_bytes()\n"
        "random = np.random.default_rng(0)\n"
        "for _ in range(40):\n"
        "    edited = bytearray(data)\n"
        "    for at in random.integers(0, 6000, 3):\n"
        "        edited[at] = random.integers(256)\n"
        "    path.write_bytes(edited)\n"
        "    try:\n"
        "        scene = open_scene(path)\n"
        "        info = scene.info\n"
        "        scene.read((0, 9), (0, 9), np.arange(info.bands))\n"
        "        scene.close()\n"
        "    except HsiError:\n"
        "        pass\n"
    )

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))

    done = subprocess.run(
        [sys.executable, "-c", code, str(made.path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=limited,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_magic_alone(tmp_path: Path) -> None:
    path = tmp_path / "magic.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + struct.pack("<Q", 0) * 20)
    refused(path, "cannot be read as HDF5")
