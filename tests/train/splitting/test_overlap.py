from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as between_systems

from hsi_runtime.errors import SceneError
from hsi_train.data.labelled_scene import UNLABELLED, LabelledData, LabelledScene
from hsi_train.data.roles import Role
from hsi_train.splitting import overlap, split
from hsi_train.splitting.blocks import spatial

MakeData = Callable[..., LabelledData]
UTM_33, UTM_32 = (CRS.from_epsg(code).to_wkt() for code in (32633, 32632))
Step = tuple[float, float, float, float, float, float]


def at(
    data: LabelledData, *steps: Step | None, systems: Sequence[str | None] = ()
) -> LabelledData:
    """Put scenes on the map, by GDAL's six numbers."""
    systems = systems or [UTM_33] * len(steps)
    scenes = [
        replace(scene, info=replace(scene.info, transform=step, crs=system))
        for scene, step, system in zip(data.scenes, steps, systems, strict=True)
    ]
    return replace(data, scenes=scenes)


def north_up(x: float, y: float, side: float = 1.0) -> Step:
    return (4e5 + x, side, 0.0, 5e6 - y, 0.0, -side)


def centres(scene: LabelledScene) -> np.ndarray:
    """Map coordinates of all pixels, shape ``(row, col, 2)``."""
    assert scene.info.transform is not None
    rows, cols = (np.arange(n) + 0.5 for n in scene.classes.shape)
    x0, a, b, y0, d, e = scene.info.transform
    row, col = np.meshgrid(rows + scene.row, cols + scene.col, indexing="ij")
    return np.stack([x0 + a * col + b * row, y0 + d * col + e * row], axis=-1)


def closest(data: LabelledData, roles: list[set[Role]]) -> float:
    """Smallest Chebyshev distance on the map between pixels of two sets of roles."""
    places = []
    for wanted in roles:
        pairs = [(s, np.isin(s.roles, list(wanted))) for s in data.scenes]
        places.append(np.concatenate([centres(s)[m] for s, m in pairs]))
    one, other = places
    apart = np.abs(one[:, None] - other[None]).max(axis=2)
    return float(apart.min()) if apart.size else float("inf")


steps = st.builds(
    north_up,
    st.floats(-12, 12),
    st.floats(-12, 12),
    st.sampled_from([0.7, 1.0, 2.0]),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(step=steps, reach=st.integers(0, 3), seed=st.integers(0, 9))
def test_near_in_another_scene_against_brute_force(
    make_data: MakeData, step: Step, reach: int, seed: int
) -> None:
    """Whatever is surely within reach is found, and nothing a pixel farther away."""
    rng = np.random.default_rng(seed)
    codes = [rng.integers(0, 3, shape) for shape in ((9, 11), (8, 7))]
    codes[0][0, :2] = 1, 2
    data = at(make_data(*codes), north_up(0, 0), step)
    masks = [(s.classes != UNLABELLED) & (rng.random(s.classes.shape) < 0.2)
             for s in data.scenes]  # fmt: skip
    found = overlap.near(masks, reach, overlap.meetings(data.scenes, reach))
    sides = 1.0, step[1]
    for number, other in ((0, 1), (1, 0)):
        scene = data.scenes[number]
        own = overlap.near([masks[number]], reach, [])[0]
        here, there = centres(scene), centres(data.scenes[other])[masks[other]]
        if not len(there):
            np.testing.assert_array_equal(found[number], own)
            continue
        apart = np.abs(here[:, :, None] - there).max(axis=3).min(axis=2)
        labelled = scene.classes != UNLABELLED
        inside = labelled & (apart < reach * sides[number] - 1e-6)
        assert (found[number] | ~inside).all()
        outside = apart > reach * max(sides) + 3 * sides[other]
        assert (found[number] == own)[outside].all()


def lines(make_data: MakeData, *moves: tuple[float, float]) -> LabelledData:
    """One landscape of square fields, seen by several flight lines."""
    rng = np.random.default_rng(1)
    fields = np.kron(rng.integers(1, 4, (14, 14)), np.ones((8, 8), int))
    codes = [fields[int(y) : int(y) + 60, int(x) : int(x) + 60] for x, y in moves]
    return at(make_data(*codes), *(north_up(x, y) for x, y in moves))


@pytest.mark.parametrize("moves", [((0, 0), (30, 7)), ((0, 0), (50, 0), (25, 40))])
def test_a_split_holds_in_whichever_line_the_ground_was_seen(
    make_data: MakeData, moves: tuple[tuple[float, float], ...]
) -> None:
    data, field = lines(make_data, *moves), 5
    data = spatial(data, field, seed=3)
    assert closest(data, [{Role.TRAIN}, {Role.TEST}]) >= field
    assert closest(data, [{Role.VALIDATION}, {Role.TRAIN, Role.TEST}]) > field // 2
    assert split.seen_in_training(data, field // 2)[0] == 0
    assert (data.pixels_by_role()[:, [Role.TRAIN, Role.TEST]] > 50).all()


def test_equal_pixels_share_their_blocks(make_data: MakeData) -> None:
    """So that little is lost to the buffer between the scenes."""
    data = lines(make_data, (0, 0), (0, 0))
    one, other = (s.roles for s in spatial(data, 5, seed=0).scenes)
    np.testing.assert_array_equal(one, other)


def test_pixels_of_another_size_are_kept_apart_too(make_data: MakeData) -> None:
    rng = np.random.default_rng(4)
    fields = np.kron(rng.integers(1, 4, (9, 9)), np.ones((8, 8), int))
    data = at(make_data(fields, fields[::2, ::2]), north_up(0, 0), north_up(0, 0, 2.0))
    data = spatial(data, 3, seed=0)
    assert closest(data, [{Role.TRAIN}, {Role.TEST}]) >= 3
    assert overlap.grid_offsets(data.scenes)[1] == overlap.GridOffset(1, 0, 0)


def test_a_random_draw_says_what_the_other_line_has_shown(make_data: MakeData) -> None:
    codes = np.ones((10, 10), int)
    codes[:, 5:] = 2
    data = at(make_data(codes, codes), north_up(0, 0), north_up(0, 0))
    data.scenes[0].roles[:, ::2] = Role.TRAIN
    data.scenes[1].roles[:, ::2] = Role.TEST
    assert split.seen_in_training(data, 0) == (50, 50)
    assert any("flattered" in said for said in split.caveats(data, 0))
    apart = at(data, north_up(0, 0), north_up(400, 0))
    assert split.seen_in_training(apart, 3) == (0, 50)


def test_scenes_that_do_not_meet_are_divided_as_without_a_map(
    make_data: MakeData,
) -> None:
    data = lines(make_data, (0, 0), (30, 7))
    nowhere = at(data, None, None)
    far = at(data, north_up(0, 0), north_up(0, 900))
    pairs = zip(spatial(nowhere, 5, 2).scenes, spatial(far, 5, 2).scenes, strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one.roles, other.roles)


def test_ground_in_two_map_projections(make_data: MakeData) -> None:
    codes = np.ones((20, 20), int)
    codes[:, 10:] = 2
    (x,), (y,) = between_systems(
        CRS.from_wkt(UTM_33), CRS.from_wkt(UTM_32), [4e5 + 10.0], [5e6 - 10.0]
    )
    turned = Affine.translation(x, y) @ Affine.translation(-10, 10)
    there = (turned.c, 1.0, 0.0, turned.f, 0.0, -1.0)
    data = at(make_data(codes, codes), north_up(0, 0), there, systems=[UTM_33, UTM_32])
    mask = np.zeros((20, 20), bool)
    mask[10, 10] = True
    met = overlap.meetings(data.scenes, 1)
    here = overlap.near([np.zeros_like(mask), mask], 1, met)[0]
    assert here[9:12, 9:12].sum() >= 4
    assert not here[:6].any()
    assert not here[15:].any()
    # Nobody knows where a map without a reference system lies on another.
    unknown = at(data, north_up(0, 0), there, systems=[UTM_33, None])
    assert overlap.meetings(unknown.scenes, 1) == []


def test_a_place_outside_of_a_projection_meets_nobody(make_data: MakeData) -> None:
    codes = np.array([[1, 2], [2, 1]])
    mercator, polar = (CRS.from_epsg(c).to_wkt() for c in (3857, 3031))
    steps = ((0.0, 1.0, 0.0, 1e30, 0.0, -1.0), north_up(0, 0))
    data = at(make_data(codes, codes), *steps, systems=[mercator, polar])
    assert overlap.meetings(data.scenes, 1) == []


@pytest.mark.parametrize("far", [8e5, 1e7, 1e300])
def test_part_of_a_scene_outside_of_a_projection_does_not_matter(
    make_data: MakeData, far: float
) -> None:
    """PROJ refuses all points where one has no place in the other system."""
    codes = np.ones((9, 9), dtype=int)
    step = (4e5, far / 9, 0.0, 5e6, 0.0, -1.0)
    data = at(make_data(codes, codes), step, north_up(0, 0), systems=[UTM_33, UTM_32])
    met = overlap.meetings(data.scenes, 3)
    for meeting in met:
        assert np.isfinite(meeting.rows).all()
    assert overlap.grid_offsets(data.scenes)[1] == overlap.GridOffset(1, 0, 0)


def test_a_class_on_ground_that_another_scene_labels_otherwise_is_named(
    make_data: MakeData,
) -> None:
    one = np.kron(np.arange(16).reshape(4, 4) % 2 + 1, np.ones((15, 15), int))
    other = one.copy()
    one[20, 20:22] = 7
    other[20, 20:22] = 8
    data = at(make_data(one, other), north_up(0, 0), north_up(0, 0))
    with pytest.raises(SceneError) as refused:
        spatial(data, 9, seed=0)
    told = str(refused.value)
    assert told.startswith("Scenes label the same ground differently, which leaves no")
    assert "class 7 (2 px), class 8 (2 px). Label more of it, or leave it out" in told
    assert told.endswith('--set \'data.exclude=["class 7", "class 8"]\'.')
