"""The simulated landscape: which material covers each point, and how it is lit.

Everything is a function of (seed, y, x) alone. Cells of jittered grids are told apart
by hashing their integer coordinates, so any window is computed without its neighbours
and no array of the whole scene exists. Only operations that IEEE 754 rounds exactly are
used (no ``sin`` or ``exp`` on pixels), so a point's result does not depend on where in
an array it sits.

From the ground up: parcels inside districts, gardens, trees, ponds and rivers, houses,
and roads along the borders of the districts. y runs south, x runs east, in metres.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
CoordArray = NDArray[np.float64]
HashArray = NDArray[np.uint32]
IndexArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]

DISTRICT_M = 130.0
PARCEL_M = (32.0, 54.0)
PLOT_M = (24.0, 28.0)
TREE_M = 10.0
RIVER_M = 520.0
ROAD_HALF_WIDTH_M = 3.2

# The sun stands in the south-east: shadows fall to the north-west, unit vector (y, x).
SHADOW = (-0.8, -0.6)
SHADOW_LIGHT = 0.42
ANGLES = np.arange(16) * (np.pi / 32) - np.pi / 4

# What may play each part; a name that stands more often is met more often.
FIELDS = (
    *("crop", "crop", "crop", "grass", "grass", "dry_vegetation", "dry_vegetation"),
    *("bright_soil", "bright_soil", "dark_soil", "dark_soil", "sand"),
)
GARDENS = ("grass", "dry_vegetation", "crop", "bright_soil", "dark_soil", "sand")
ROADS = ("asphalt", "asphalt", "asphalt", "concrete")
ROOFS = ("red_tile", "red_tile", "metal_roof", "concrete")


class Cover(NamedTuple):
    """What lies at each point.

    Attributes:
        material: Index into the list of materials, (y, x).
        field: Key of the parcel, crown or building there, (y, x): equal keys share
            their variety of the material.
        light: Illumination, one on flat sunlit ground, (y, x).
    """

    material: IndexArray
    field: HashArray
    light: FloatArray


class Districts(NamedTuple):
    """The Voronoi cell around each point, all (y, x).

    Attributes:
        key: Hash of the cell.
        v: Offset from the cell's centre across its main direction, metres.
        u: Offset along it.
        angle: Index of the main direction in ``ANGLES``.
        border: Distance to the cell's border, metres.
        border_key: Hash of that border, the same from both sides.
    """

    key: HashArray
    v: FloatArray
    u: FloatArray
    angle: IndexArray
    border: FloatArray
    border_key: HashArray


def hash_cells(
    seed: int, salt: int, y: NDArray[np.generic], x: NDArray[np.generic]
) -> HashArray:
    """Hash integer coordinates (broadcast together) with murmur3's finaliser."""
    key = np.uint32((seed * 0x632BE5AB + salt * 0x7F4A7C15) & 0xFFFFFFFF)
    h = y.astype(np.uint32) * np.uint32(0x9E3779B1)
    h = h ^ (x.astype(np.uint32) * np.uint32(0x85EBCA77)) ^ key
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h


def unit(h: HashArray, byte: int = 0) -> FloatArray:
    """Turn 16 of a hash's bits, from ``byte`` (0..2) on, into numbers in [0, 1)."""
    bits = (h >> np.uint32(8 * byte)) & np.uint32(0xFFFF)
    return bits.astype(np.float32) * np.float32(2.0**-16)


def choose(h: HashArray, options: IndexArray) -> IndexArray:
    """Pick one of the options by the hash."""
    picked: IndexArray = options[(h >> np.uint32(7)) % np.uint32(options.size)]
    return picked


def cells(
    coordinate: CoordArray, size_m: float
) -> tuple[NDArray[np.int64], FloatArray]:
    """Split coordinates into the cell's index and the position in it, 0..1."""
    scaled = coordinate / size_m
    index = np.floor(scaled)
    return index.astype(np.int64), (scaled - index).astype(np.float32)


def span(index: NDArray[np.int64], margin: int) -> NDArray[np.int64]:
    """List the cells that a rising index touches, and ``margin`` more on each side."""
    return np.arange(index[0] - margin, index[-1] + margin + 1)


def expand(lattice: NDArray[np.generic], y: IndexArray, x: IndexArray) -> FloatArray:
    """Give every point the value of its cell: ``(cell_y, cell_x)`` to ``(y, x)``."""
    points: FloatArray = np.take(lattice[y], x, axis=1)
    return points


def smooth_noise(
    seed: int, salt: int, y: CoordArray, x: CoordArray, size_m: float
) -> FloatArray:
    """Interpolate random values at the corners of a grid; (y, x), in [0, 1)."""
    iy, fy = cells(y, size_m)
    ix, fx = cells(x, size_m)
    ys, xs = span(iy, 1), span(ix, 1)
    corners = unit(hash_cells(seed, salt, ys[:, None], xs[None, :]))
    fy, fx = fy * fy * (3 - 2 * fy), fx * fx * (3 - 2 * fx)
    top, bottom = corners[iy - ys[0]], corners[iy - ys[0] + 1]
    lines = top + (bottom - top) * fy[:, None]
    left = np.take(lines, ix - xs[0], axis=1)
    right = np.take(lines, ix - xs[0] + 1, axis=1)
    right -= left
    right *= fx[None, :]
    right += left
    noise: FloatArray = right
    return noise


def find_districts(seed: int, y: CoordArray, x: CoordArray) -> Districts:
    """Find the nearest of the jittered grid's centres and the second nearest."""
    iy, fy = cells(y, DISTRICT_M)
    ix, fx = cells(x, DISTRICT_M)
    ys, xs = span(iy, 1), span(ix, 1)
    keys = hash_cells(seed, 1, ys[:, None], xs[None, :])
    jitter_y = 0.1 + np.float32(0.8) * unit(keys, 0)
    jitter_x = 0.1 + np.float32(0.8) * unit(keys, 2)
    py, px = iy - ys[0], ix - xs[0]
    shape = (y.size, x.size)
    far = np.float32(9)
    best, second = np.full(shape, far), np.full(shape, far)
    # Which of the nine neighbouring cells, counted along rows.
    best_cell, second_cell = np.zeros(shape, np.int8), np.zeros(shape, np.int8)
    for neighbour in range(9):
        qy, qx = py + (neighbour // 3 - 1), px + (neighbour % 3 - 1)
        across = expand(jitter_y, qy, qx)
        across += (np.float32(neighbour // 3 - 1) - fy)[:, None]
        along = expand(jitter_x, qy, qx)
        along += (np.float32(neighbour % 3 - 1) - fx)[None, :]
        across *= across
        along *= along
        distance = across
        distance += along
        nearer = distance < best
        runner_up = ~nearer & (distance < second)
        np.copyto(second, distance, where=runner_up)
        np.copyto(second_cell, neighbour, where=runner_up)
        np.copyto(second, best, where=nearer)
        np.copyto(second_cell, best_cell, where=nearer)
        np.copyto(best, distance, where=nearer)
        np.copyto(best_cell, neighbour, where=nearer)

    def cell(number: NDArray[np.int8]) -> tuple[HashArray, FloatArray, FloatArray]:
        """Return a neighbouring cell's key and the way to its centre, in cells."""
        down, right = number // 3, number % 3
        flat = (py[:, None] + down - 1) * xs.size + (px[None, :] + right - 1)
        to_y = jitter_y.ravel()[flat] + (down.astype(np.float32) - 1 - fy[:, None])
        to_x = jitter_x.ravel()[flat] + (right.astype(np.float32) - 1 - fx[None, :])
        return keys.ravel()[flat], to_y, to_x

    key, to_y, to_x = cell(best_cell)
    other_key, other_y, other_x = cell(second_cell)
    between = np.sqrt(np.square(other_y - to_y) + np.square(other_x - to_x))
    # The distance to the line halfway between two centres, from the squared distances.
    border = (second - best) / (2 * between) * np.float32(DISTRICT_M)
    angle = ((key >> np.uint32(5)) % np.uint32(ANGLES.size)).astype(np.intp)
    cos = np.cos(ANGLES).astype(np.float32)[angle] * np.float32(DISTRICT_M)
    sin = np.sin(ANGLES).astype(np.float32)[angle] * np.float32(DISTRICT_M)
    return Districts(
        key=key,
        v=sin * to_x - cos * to_y,
        u=-cos * to_x - sin * to_y,
        angle=angle,
        border=border,
        border_key=key ^ other_key,
    )


class Landscape:
    """The covered ground of one seed and one list of materials."""

    def __init__(self, seed: int, materials: tuple[str, ...]) -> None:
        self.seed = seed
        self.materials = materials
        everything = np.arange(len(materials))
        fields = self.indices(FIELDS)
        self.fields = fields if fields.size else everything
        gardens = self.indices(GARDENS)
        self.garden = int(gardens[0]) if gardens.size else 0
        self.roads = self.indices(ROADS)
        self.roofs = self.indices(ROOFS)
        self.yards = self.indices(("concrete", "asphalt"))
        self.trees = self.indices(("broadleaf", "conifer"))
        self.water = self.indices(("water",))
        self.sand = self.indices(("sand",))
        self.shade = self.indices(("shade",))

    def indices(self, names: tuple[str, ...]) -> IndexArray:
        """Return the positions of those names that are among the materials."""
        places = [self.materials.index(n) for n in names if n in self.materials]
        return np.array(places, dtype=np.intp)

    def cover(self, y_m: CoordArray, x_m: CoordArray) -> Cover:
        """Describe the points of a grid.

        Args:
            y_m: Southward coordinates, rising, (y).
            x_m: Eastward coordinates, rising, (x).
        """
        seed = self.seed
        districts = find_districts(seed, y_m, x_m)
        light = 0.86 + np.float32(0.24) * smooth_noise(seed, 2, y_m, x_m, 170)
        cover = Cover(*self.parcels(districts), light)
        village = unit(districts.key, 1) < np.float32(0.28 if self.roofs.size else 0)
        np.copyto(cover.material, self.garden, where=village)
        np.copyto(cover.field, districts.key, where=village)
        if self.trees.size:
            self.add_trees(cover, y_m, x_m)
        if self.water.size:
            self.add_water(cover, y_m, x_m)
        dry = village & (cover.material != self.water[0] if self.water.size else True)
        places = np.flatnonzero(dry & (districts.border > ROAD_HALF_WIDTH_M + 2))
        if places.size:
            self.add_houses(cover, districts, places)
        if self.roads.size:
            road = districts.border < ROAD_HALF_WIDTH_M
            np.copyto(
                cover.material, choose(districts.border_key, self.roads), where=road
            )
            np.copyto(cover.field, districts.border_key, where=road)
        return cover

    def parcels(self, districts: Districts) -> tuple[IndexArray, HashArray]:
        """Cut the districts into strips along u, and the strips into parcels."""
        strip = np.floor(districts.v * np.float32(1 / PARCEL_M[0])).astype(np.int32)
        moved = unit(hash_cells(self.seed, 3, strip, districts.key), 1)
        place = districts.u * np.float32(1 / PARCEL_M[1]) + moved
        parcel = np.floor(place).astype(np.int32)
        key = hash_cells(self.seed, 4, strip * 251 + parcel, districts.key)
        return choose(key, self.fields), key

    def add_trees(self, cover: Cover, y: CoordArray, x: CoordArray) -> None:
        """Plant woods where a smooth noise is high, and single trees elsewhere."""
        seed = self.seed
        iy, fy = cells(y, TREE_M)
        ix, fx = cells(x, TREE_M)
        ys, xs = span(iy, 0), span(ix, 0)
        py, px = iy - ys[0], ix - xs[0]
        keys = hash_cells(seed, 5, ys[:, None], xs[None, :])
        wood = smooth_noise(seed, 6, y, x, 95)
        wood += np.float32(0.12) * smooth_noise(seed, 7, y, x, 14)
        inside = wood > np.float32(0.74)
        stand = smooth_noise(seed, 8, y, x, 60) > np.float32(0.5)
        species = self.trees[np.where(stand, 0, self.trees.size - 1)]

        # A crown and its shadow stay inside their cell, so no neighbour is looked at.
        radius = (0.14 + 0.12 * unit(keys, 0)).astype(np.float32)
        centre_y = 0.55 + 0.16 * (unit(keys, 1) - np.float32(0.5))
        centre_x = 0.55 + 0.16 * (unit(keys, 2) - np.float32(0.5))
        grows = hash_cells(seed, 9, ys[:, None], xs[None, :]) % np.uint32(100) < 9
        radius *= grows
        reach = expand(radius, py, px)
        reach *= reach
        off_y = fy[:, None] - expand(centre_y, py, px)
        off_x = fx[None, :] - expand(centre_x, py, px)
        crown = off_y * off_y + off_x * off_x < reach
        length = np.float32(0.3)
        along = off_y * np.float32(SHADOW[0]) + off_x * np.float32(SHADOW[1])
        np.clip(along, 0, length, out=along)
        off_y -= along * np.float32(SHADOW[0])
        off_x -= along * np.float32(SHADOW[1])
        shadow = off_y * off_y + off_x * off_x < reach
        dark = shadow & ~crown & ~inside
        if self.shade.size:
            np.copyto(cover.material, self.shade[0], where=dark)
        else:
            cover.light[dark] *= np.float32(SHADOW_LIGHT)

        leaves = smooth_noise(seed, 10, y, x, 3.1)
        tree = crown | inside
        np.copyto(cover.light, cover.light * (0.68 + 0.44 * leaves), where=tree)
        np.copyto(cover.material, species, where=tree)
        np.copyto(cover.field, expand(keys, py, px).astype(np.uint32), where=tree)

    def add_water(self, cover: Cover, y: CoordArray, x: CoordArray) -> None:
        """Let a river run south in every strip of ``RIVER_M``, and add ponds."""
        seed = self.seed
        ix, fx = cells(x, RIVER_M)
        xs = span(ix, 0)
        # One line of cells per river: the second coordinate is the river's number.
        bends = np.stack(
            [smooth_noise(seed, 11, y, np.array([900.0 * r]), 190)[:, 0] for r in xs],
            axis=1,
        )
        widths = np.stack(
            [smooth_noise(seed, 12, y, np.array([900.0 * r]), 70)[:, 0] for r in xs],
            axis=1,
        )
        centre = np.take(100 + 230 * bends, ix - xs[0], axis=1)
        half = np.take(7 + 9 * widths, ix - xs[0], axis=1)
        bank = np.abs(fx[None, :] * np.float32(RIVER_M) - centre)
        bank -= half
        pond = smooth_noise(seed, 13, y, x, 48)
        pond += np.float32(0.05) * smooth_noise(seed, 14, y, x, 9)
        pond -= np.float32(0.93)
        # About metres near the shore, as the noise rises by 0.01 in a metre there.
        np.minimum(bank, pond * np.float32(-100), out=bank)
        if self.sand.size:
            shore = bank < np.float32(4)
            np.copyto(cover.material, self.sand[0], where=shore)
            np.copyto(cover.field, np.uint32(7), where=shore)
        wet = bank < 0
        np.copyto(cover.material, self.water[0], where=wet)
        key = (np.take(xs, ix - xs[0]) * 977).astype(np.uint32)
        np.copyto(cover.field, key[None, :], where=wet)
        np.copyto(cover.light, np.float32(0.95), where=wet)

    def add_houses(
        self, cover: Cover, districts: Districts, places: NDArray[np.int64]
    ) -> None:
        """Build on the plots of villages, at the points ``places`` (flat indices)."""
        v, u = districts.v.reshape(-1)[places], districts.u.ravel()[places]
        row = np.floor(v * np.float32(1 / PLOT_M[0]))
        col = np.floor(u * np.float32(1 / PLOT_M[1]))
        number = row.astype(np.int32) * 509 + col.astype(np.int32)
        key = hash_cells(self.seed, 15, number, districts.key.reshape(-1)[places])
        # Metres from the house's centre; a plot keeps room for the shadow.
        v = v - (row + np.float32(0.5)) * np.float32(PLOT_M[0])
        u = u - (col + np.float32(0.5)) * np.float32(PLOT_M[1])
        v += 3 * unit(key, 0) - np.float32(1.5)
        u += 3 * unit(key, 1) - np.float32(1.5)
        half_v = 3.5 + 3 * unit(key, 2)
        half_u = 5 + 4 * unit(key, 1)
        angle = districts.angle.reshape(-1)[places]
        cos = np.cos(ANGLES).astype(np.float32)[angle]
        sin = np.sin(ANGLES).astype(np.float32)[angle]
        shade_v = cos * np.float32(SHADOW[0]) - sin * np.float32(SHADOW[1])
        shade_u = sin * np.float32(SHADOW[0]) + cos * np.float32(SHADOW[1])

        built = key % np.uint32(100) < 88
        roof = built & (np.abs(v) < half_v) & (np.abs(u) < half_u)
        # A point lies in shadow if going back towards the sun, by at most the shadow's
        # length, meets the house: the ways through both pairs of walls must overlap.
        height = 3 + 3 * unit(key, 0)
        enter, leave = np.zeros_like(height), height
        for offset, half, shade in ((v, half_v, shade_v), (u, half_u, shade_u)):
            slope = np.where(np.abs(shade) < 1e-3, np.float32(1e-3), shade)
            first, last = (offset - half) / slope, (offset + half) / slope
            enter = np.maximum(enter, np.minimum(first, last))
            leave = np.minimum(leave, np.maximum(first, last))
        shadow = built & ~roof & (enter < leave)

        material = cover.material.reshape(-1)[places]
        field = cover.field.reshape(-1)[places]
        light = cover.light.reshape(-1)[places]
        if self.yards.size:
            inside = np.maximum(np.abs(v) - half_v, np.abs(u) - half_u) < 3
            yard = inside & (key >> np.uint32(9) & np.uint32(3) == 0)
            material = np.where(yard, self.yards[0], material)
        if self.shade.size:
            material = np.where(shadow, self.shade[0], material)
        else:
            light = light * np.where(shadow, np.float32(SHADOW_LIGHT), np.float32(1))
        # The two sides of a gable: the one that looks to the sun is brighter.
        tilt = np.where(v > 0, np.float32(-0.22), np.float32(0.22)) * shade_v
        light = np.where(roof, 1 + tilt, light)
        material = np.where(roof, choose(key, self.roofs), material)
        field = np.where(roof, key, field)
        cover.material.reshape(-1)[places] = material
        cover.field.reshape(-1)[places] = field
        cover.light.reshape(-1)[places] = light
