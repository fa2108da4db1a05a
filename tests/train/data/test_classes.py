import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from hsi_runtime.errors import SceneError
from hsi_runtime.model.model_file import ClassEntry
from hsi_train.data.classes import PALETTE, ClassTable

# A letter with its mark as one code point, and as two; the sign Angstrom.
FORMS = [("\u00d6l", "O\u0308l"), ("for\u00eat", "fore\u0302t"), ("\u00c5", "\u212b")]


def write(folder: Path, content: Any) -> str:
    path = folder / "classes.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "content",
    [
        {"1": "roof", "14": "Bäume"},
        {"classes": {"1": "roof", "14": "Bäume"}, "sensor": "any"},
        [{"code": 1, "name": "roof"}, {"code": 14, "name": "Bäume"}],
        {"classes": [{"code": 1, "name": "roof"}, {"code": 14, "name": "Bäume"}]},
    ],
)
def test_each_form_of_the_file(tmp_path: Path, content: Any) -> None:
    table = ClassTable.from_json(write(tmp_path, content))
    assert table.names == {1: "roof", 14: "Bäume"}
    assert table.colors == {}


def test_colours_of_objects(tmp_path: Path) -> None:
    content = [{"code": 1, "name": "a", "color": "#FF8000"}, {"code": 2, "name": "b"}]
    table = ClassTable.from_json(write(tmp_path, content))
    classes, said = table.describe([1, 2])
    assert classes[0] == ClassEntry(code=1, name="a", color="#ff8000")
    assert classes[1] == ClassEntry(code=2, name="b", color=PALETTE[1])
    assert said == []


@pytest.mark.parametrize("color", ["red", "#12345", "#1234567", "123456", "#12345g", 5])
def test_bad_colour_is_shown(tmp_path: Path, color: Any) -> None:
    content = [{"code": 1, "name": "a", "color": color}]
    with pytest.raises(SceneError, match=rf"colour {color!r}.*#rrggbb"):
        ClassTable.from_json(write(tmp_path, content))


@pytest.mark.parametrize(
    "content",
    [5, None, "text", ["a", "b"], [{"code": 1}], [{"name": "a"}], {"one": "roof"},
     {"1": {"name": "roof"}}, {"1": None}, [{"code": "x", "name": "a"}]],
)  # fmt: skip
def test_other_forms_are_refused_with_an_example(tmp_path: Path, content: Any) -> None:
    with pytest.raises(SceneError, match=r"Classes .*classes\.json.*expected"):
        ClassTable.from_json(write(tmp_path, content))


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe\x00", b"[1,"])
def test_damaged_or_missing_file(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "classes.json"
    with pytest.raises(SceneError, match=r"no file .*classes\.json"):
        ClassTable.from_json(str(path))
    path.write_bytes(raw)
    with pytest.raises(SceneError, match=r"Classes .*classes\.json"):
        ClassTable.from_json(str(path))


def test_codes_without_any_name_are_their_own_name() -> None:
    classes, said = ClassTable().describe([3, 7])
    assert [c.name for c in classes] == ["3", "7"]
    assert len({c.color for c in classes}) == 2
    assert said == []


def test_missing_names_are_reported_when_others_have_one() -> None:
    classes, said = ClassTable({3: "roof"}).describe([3, 7])
    assert [c.name for c in classes] == ["roof", "7"]
    assert said == ["Label codes without a name keep their code: [7]."]


@pytest.mark.parametrize("name", ["", "Unclassified", "NoData", "0", " Background "])
def test_code_zero_may_say_that_it_is_no_class(name: str) -> None:
    assert ClassTable({0: name, 3: "roof"}).describe([3])[1] == []


def test_a_class_of_code_zero_is_said_to_be_lost() -> None:
    _, said = ClassTable({0: "water", 1: "forest", 2: "roof"}).describe([1, 2])
    assert said == [
        "Code 0 means unlabelled, so 'water' is no class and its pixels are not used. "
        "If it is a class, give it another code."
    ]


def test_later_table_wins() -> None:
    first = ClassTable({1: "a", 2: "b"}, {1: "#000000"})
    both = first.updated(ClassTable({2: "c"}, {1: "#ffffff"}))
    assert both == ClassTable({1: "a", 2: "c"}, {1: "#ffffff"})


def test_many_classes_all_get_a_colour() -> None:
    classes, _ = ClassTable().describe(list(range(1, 100)))
    assert all(len(c.color) == 7 for c in classes)
    assert len({c.color for c in classes[: len(PALETTE)]}) == len(PALETTE) >= 64


# Machado et al. 2009, severity 1: linear RGB as seen without green or red cones.
VISION = {
    "normal": np.eye(3),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]
    ),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]
    ),
}  # fmt: skip
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
     [0.0193339, 0.1191920, 0.9503041]]
)  # fmt: skip


def cielab(colors: tuple[str, ...], vision: str) -> NDArray[np.float64]:
    """Convert ``#rrggbb`` to CIELAB, shape ``(color, 3)``."""
    rgb = np.array([to_rgb(c) for c in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ VISION[vision].T, 0, 1)
    xyz = seen @ TO_XYZ.T / (0.95047, 1, 1.08883)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])],
        axis=1,
    )


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(("count", "distance"), [(8, 15), (28, 10), (64, 7)])
def test_default_colours_are_told_apart(
    vision: str, count: int, distance: float
) -> None:
    seen = cielab(PALETTE[:count], vision)
    assert len(seen) == count
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    assert apart[~np.eye(count, dtype=bool)].min() > distance


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"1": "a", "1": "b"}', "'1' is given twice"),
        ('{"1": "a", "01": "b"}', "code 1 is given twice"),
        (
            '[{"code": 1, "name": "a"}, {"code": 1, "name": "b"}]',
            "code 1 is given twice",
        ),
        ('[{"code": 1, "code": 2, "name": "a"}]', "'code' is given twice"),
        ('[{"code": 1.9, "name": "a"}]', r"code 1\.9 is no whole number"),
        ('{"1.9": "a"}', r"code '1\.9' is no whole number"),
        ('[{"code": true, "name": "a"}]', "code True is no whole number"),
        ('{"-1": "a"}', "code '-1' is no whole number"),
        ('{"65535": "a"}', r"code '65535' is not in 0\.\.65534"),
        ('{"1": "a", "2": " a "}', "two classes are named 'a'"),
        ('{"1": "  "}', "is no name"),
        ('{"classes": ' * 20_000, "nested too deep"),
        ("[" * 20_000, "nested too deep"),
        ('{"1": ' + "9" * 5_000 + "}", "expected"),
    ],
)
def test_a_class_file_that_would_lose_something_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(SceneError, match=message):
        ClassTable.from_json(str(path))


def test_byte_order_mark_is_no_part_of_the_class_file(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    path.write_bytes(b'\xef\xbb\xbf{"1": "roof"}')
    assert ClassTable.from_json(str(path)).names == {1: "roof"}


def test_names_that_differ_in_capitals_only_are_warned_of() -> None:
    _, messages = ClassTable({1: "Roof", 2: "roof ", 3: "tree"}).describe([1, 2, 3])
    (message,) = messages
    assert "'Roof' (1) and 'roof' (2) have the same name" in message


@pytest.mark.parametrize(
    "pair",
    [("\ufb01eld", "field"), ("Fields 2", "fields \u00b2"), ("stra\u00dfe", "STRASSE")],
)
def test_names_that_look_alike_are_warned_of(pair: tuple[str, str]) -> None:
    _, (message,) = ClassTable(dict(enumerate(pair, start=1))).describe([1, 2])
    assert "have the same name, apart from capitals, spaces or forms" in message


@pytest.mark.parametrize(("one", "other"), FORMS)
def test_two_forms_of_unicode_are_one_name(
    one: str, other: str, tmp_path: Path
) -> None:
    assert one != other
    assert ClassTable({1: one}) == ClassTable({1: other})
    table = ClassTable.from_json(write(tmp_path, {"1": one}))
    assert table == ClassTable.from_json(write(tmp_path, {"1": other}))
    with pytest.raises(SceneError, match="two classes are named"):
        ClassTable.from_json(write(tmp_path, {"1": one, "2": other}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a\0b", "control character"),
        ("a\x1b[31m", "control character"),
        ("\ud800", "control character"),
        ("a" * 100_000, "100000 letters; at most 200"),
    ],
    ids=["nul", "escape", "surrogate", "long"],
)
def test_names_that_no_file_can_hold_are_refused(name: str, message: str) -> None:
    with pytest.raises(SceneError, match=message):
        ClassTable({1: name}).describe([1])


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["code", "name", "color", "classes", "1", "2"]),
                st.text(max_size=3),
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)
CODE = st.one_of(st.integers(-1, 70_000), st.integers(1, 9).map(str))
ENTRY = st.fixed_dictionaries(
    {"code": CODE, "name": st.text(max_size=4)},
    optional={"color": st.sampled_from(["#FF00aa", "red", None, 3])},
)
CLASS_FILES = st.one_of(
    st.binary(),
    JSON.map(json.dumps).map(str.encode),
    st.lists(ENTRY, max_size=4).map(json.dumps).map(str.encode),
    st.dictionaries(CODE, st.text(max_size=4)).map(json.dumps).map(str.encode),
)


def check_any_class_file(folder: Path, content: bytes) -> None:
    path = folder / "classes.json"
    path.write_bytes(content)
    try:
        table = ClassTable.from_json(str(path))
        classes, _ = table.describe(sorted(table.names))
    except SceneError:
        return
    assert len({entry.name for entry in classes}) == len(classes)
    for entry in classes:
        assert 0 <= entry.code <= 65534
        entry.name.encode()
        assert len(entry.color) == 7


@given(CLASS_FILES)
@settings(max_examples=100)
def test_any_class_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    check_any_class_file(tmp_path_factory.getbasetemp(), content)


@pytest.mark.soak
@given(CLASS_FILES)
@settings(max_examples=20_000)
def test_many_class_files(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    check_any_class_file(tmp_path_factory.getbasetemp(), content)
