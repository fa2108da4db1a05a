"""Opens a product whose cube is a GeoTIFF beside the file that describes it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hsi_runtime.errors import SceneError
from hsi_runtime.files import open_binary
from hsi_runtime.scenes.envi_files import header_beside
from hsi_runtime.scenes.envi_header import is_header
from hsi_runtime.scenes.geotiff import GeoTiffScene, tiff_shape
from hsi_runtime.scenes.products.recognised import Recognised
from hsi_runtime.scenes.scene import Product, QualityLayer, Scene
from hsi_runtime.scenes.side_car import Statements, check_mask
from hsi_runtime.scenes.tiff_tags import is_tiff


@dataclass(frozen=True, kw_only=True)
class TiffProduct:
    """A product, as the file that describes it says.

    Attributes:
        product: Kind, name and time.
        statements: What it says of the cube; its path is that of the description.
        bands: Number of bands of the cube, or None if the cube alone knows it.
        cube_names: Names that the cube may have.
        members: Names of all files of the product.
        prefixes: What names of other files of it begin with.
        quality: Layers that say which pixels to trust, by the files that hold them.
        refusal: Why it cannot be read, or an empty text.
        notes: Sentences for the user.
    """

    product: Product
    statements: Statements
    bands: int | None
    cube_names: Sequence[str] = ()
    members: Sequence[str] = ()
    prefixes: Sequence[str] = ()
    quality: Sequence[QualityLayer] = ()
    refusal: str = ""
    notes: tuple[str, ...] = field(default=())

    def recognised(self) -> Recognised:
        """Return what a recogniser returns for the file that describes it."""
        path = self.statements.path
        return Recognised(self.product.kind, path, self.open, self.owns)

    def open(self) -> Scene:
        """Open the scene.

        Raises:
            SceneError: The cube is missing or is not what is described, or the product
                is of a kind that is not read.
        """
        path = self.statements.path
        if self.refusal:
            raise SceneError(f"{path} describes {self.product.kind}: {self.refusal}")
        cube = self.cube()
        check_mask(cube)
        scene = GeoTiffScene(cube, product=self.statements)
        beside = [q for q in self.quality if path.with_name(q.place).is_file()]
        info = scene.info
        files = info.files if path in info.files else (*info.files, path)
        scene.info = replace(
            info,
            product=self.product,
            quality=tuple(beside),
            notes=(*self.notes, *info.notes),
            files=files,
        )
        return scene

    def owns(self, other: Path) -> bool:
        """Return True if a file beside the description belongs to the product."""
        name = other.name.lower()
        if name in {member.lower() for member in self.members}:
            return True
        if any(name.startswith(prefix.lower()) for prefix in self.prefixes):
            return True
        with open_binary(other) as file:
            if is_header(file.read(8)):
                return self._is_header(other)
        # A cube that states its wavelengths itself is a scene under any name.
        if self.bands is None or not self._may_be_cube(other):
            return False
        return self.cube().samefile(other)

    def cube(self) -> Path:
        """Find the cube: by a name that it may have, else by its number of bands.

        Raises:
            SceneError: There is none, or several files may be it.
        """
        folder = self.statements.path.parent
        names = {name.lower() for name in self.cube_names}
        beside = sorted(path for path in folder.iterdir() if path.is_file())
        named = [path for path in beside if path.name.lower() in names]
        fitting = [path for path in named or beside if self._may_be_cube(path)]
        if len(fitting) == 1:
            return fitting[0]
        what = f"{self.statements.path} describes {self.product.kind}"
        bands = "" if self.bands is None else f" of {self.bands} bands"
        if fitting:
            raise SceneError(
                f"{what}, and {' and '.join(p.name for p in fitting[:3])} may be its "
                f"cube{bands}. Keep each product in a folder of its own."
            )
        if named:
            raise SceneError(
                f"{what}, but {named[0].name} is not a GeoTIFF{bands}. Copy the "
                "product again."
            )
        expected = f" {self.cube_names[0]}" if self.cube_names else ""
        raise SceneError(
            f"{what}, but its cube{expected}, a GeoTIFF{bands}, is not in the folder. "
            "Copy the whole product."
        )

    def _is_header(self, other: Path) -> bool:
        """Return True for the ENVI header of the cube, as DESIS has one."""
        try:
            header = header_beside(self.cube(), list_folder=False)
        except SceneError:
            return False
        return header is not None and header.samefile(other)

    def _may_be_cube(self, path: Path) -> bool:
        """Return True for a TIFF with as many bands as are described, not of bytes."""
        with open_binary(path) as file:
            if not is_tiff(file.read(4)):
                return False
        shape = tiff_shape(path)
        return (
            shape is not None
            and shape.dtype != "uint8"
            and (self.bands is None or shape.bands == self.bands)
        )
