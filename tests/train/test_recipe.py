import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsi_runtime.errors import RecipeError
from hsi_train import methods, recipe
from hsi_train.recipe import Data, Fit, Pretrain, Recipe, Split

MINIMAL = {"method": "mf2cnet", "data": {"scenes": ["a.tif"], "labels": ["b.tif"]}}

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
positive = st.integers(1, 10**6)
share = st.floats(0.001, 0.999)
splits = st.one_of(
    st.just(Split()),
    st.builds(
        Split,
        mode=st.sampled_from(["file", "test-labels"]),
        files=st.lists(names, min_size=1).map(tuple),
    ),
    st.builds(Split, mode=st.just("per-class"), samples_per_class=positive),
    st.builds(Split, mode=st.just("fraction"), train_fraction=share),
)
recipes = st.builds(
    Recipe,
    method=names,
    data=st.builds(
        Data,
        scenes=st.lists(names, min_size=1, max_size=3).map(tuple),
        labels=st.lists(names, min_size=1, max_size=3).map(tuple),
        label_field=st.none() | names,
        classes=st.none() | names,
        exclude=st.lists(names | positive, max_size=3).map(tuple),
        quantity=names,
    ),
    seed=st.integers(0, 2**32 - 1),
    split=splits,
    fit=st.builds(
        Fit,
        epochs=st.none() | positive,
        outputs=st.none() | st.integers(1, 1024),
        batch=st.none() | positive,
        learning_rate=st.floats(1e-9, 1e3),
        weight_decay=st.floats(0, 10),
        gain=share,
        noise=st.floats(0, 10),
        patience=st.integers(0, 1000),
    ),
    pretrain=st.none()
    | st.builds(
        Pretrain,
        scenes=st.lists(names, min_size=1, max_size=3).map(tuple),
        steps=positive,
        learning_rate=st.floats(1e-9, 1e3),
    )
    | st.builds(Pretrain, init=names, outputs=st.integers(1, 1024)),
    options=st.dictionaries(
        st.from_regex(r"[a-z_]{1,12}", fullmatch=True),
        st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9) | st.booleans() | names,
        max_size=4,
    ),
)


@settings(max_examples=80, deadline=None)
@given(recipes)
def test_what_is_written_is_read_back_equal(wanted: Recipe) -> None:
    text = recipe.dump(wanted)
    assert recipe.parse(tomllib.loads(text)) == wanted
    assert recipe.dump(recipe.parse(tomllib.loads(text))) == text


def changed(section: str, **values: Any) -> dict[str, Any]:
    content: dict[str, Any] = {k: v for k, v in MINIMAL.items()}  # noqa: C416
    if section:
        content[section] = dict(content.get(section, {})) | values
    else:
        content |= values
    return content


def test_minimal_recipe_has_the_defaults() -> None:
    parsed = recipe.parse(MINIMAL)
    assert parsed.seed == 0
    assert parsed.split.mode == "disjoint"
    assert parsed.fit == Fit()


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("", {"colour": 1}, "unknown field `colour`"),
        ("fit", {"epoch": 3}, r"unknown field `epoch`.*fit"),
        ("data", {"scene": "a"}, "unknown field `scene`"),
        ("fit", {"epochs": "three"}, r"Expected `int.*epochs"),
        ("fit", {"epochs": 0}, r">= 1.*epochs"),
        ("fit", {"learning_rate": 0.0}, r"> 0.*learning_rate"),
        ("fit", {"learning_rate": float("nan")}, r"learning_rate"),
        ("fit", {"learning_rate": float("inf")}, r"learning_rate"),
        ("fit", {"noise": float("inf")}, r"noise"),
        ("fit", {"gain": 1.0}, r"< 1.*gain"),
        ("", {"seed": -1}, r">= 0.*seed"),
        ("", {"seed": 2**32}, r"seed"),
        ("data", {"scenes": []}, "scenes and labels must each name a file"),
        ("data", {"labels": "b.tif"}, r"Expected `array`.*labels"),
        *(
            ("data", {key: ""}, rf"length >= 1.*data\.{key}")
            for key in ("classes", "label_field", "dark", "bands_of", "quantity")
        ),
        (
            "target",
            {"scenes": ["a"], "labels": ["b"], "classes": ""},
            r"length >= 1.*target\.classes",
        ),
        ("pretrain", {"init": ""}, r"length >= 1.*pretrain\.init"),
        ("split", {"mode": "random"}, r"mode"),
        ("split", {"mode": "per-class"}, "setting of mode 'per-class' is missing"),
        ("split", {"samples_per_class": 5}, "setting of mode 'per-class' is given"),
        ("split", {"mode": "file"}, "setting of mode 'file' or .* is missing"),
        (
            "split",
            {"mode": "test-labels"},
            "setting of mode 'file' or 'test-labels' is missing",
        ),
        ("split", {"mode": "fraction", "train_fraction": 1.0}, "train_fraction"),
        (
            "split",
            {"mode": "fraction", "train_fraction": 0.5, "files": ["a"]},
            "setting of mode 'file' or 'test-labels' is given",
        ),
        ("split", {"probability_sample": True}, "no random sample of the scene"),
        (
            "split",
            {"mode": "fraction", "train_fraction": 0.5, "probability_sample": True},
            "no random sample of the scene",
        ),
    ],
)
def test_mistakes_are_named(section: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe.parse(changed(section, **values))


def test_a_random_sample_keeps_all_classes() -> None:
    drawn = {"mode": "file", "files": ["s.tif"], "probability_sample": True}
    content = changed("split", **drawn)
    assert recipe.parse(content).split.probability_sample
    content["data"] = content["data"] | {"exclude": ["water"]}
    with pytest.raises(RecipeError, match="takes pixels out of the random sample"):
        recipe.parse(content)


def test_missing_parts_are_named() -> None:
    with pytest.raises(RecipeError, match="missing required field `method`"):
        recipe.parse({"data": MINIMAL["data"]})
    with pytest.raises(RecipeError, match="missing required field `data`"):
        recipe.parse({"method": "mf2cnet"})


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("fit.epochs=3", ("fit", "epochs"), 3),
        ("fit.gain=0.25", ("fit", "gain"), 0.25),
        ("seed = 5", ("seed",), 5),
        ("data.label_field=genus", ("data", "label_field"), "genus"),
        ("data.label_field=a=b", ("data", "label_field"), "a=b"),
        ('data.scenes=["x.tif", "y.tif"]', ("data", "scenes"), ["x.tif", "y.tif"]),
        ("options.deep.er=true", ("options", "deep", "er"), True),
        ("data.quantity=", ("data", "quantity"), ""),
    ],
)
def test_override(assignment: str, path: tuple[str, ...], value: Any) -> None:
    content: dict[str, Any] = {"data": {"scenes": ["a"]}}
    recipe.override(content, assignment)
    found: Any = content
    for key in path:
        found = found[key]
    assert found == value
    assert content["data"].keys() >= {"scenes"}


@pytest.mark.parametrize("assignment", ["", "epochs", "fit.=3", "=3", ".epochs=3"])
def test_override_of_another_form(assignment: str) -> None:
    with pytest.raises(RecipeError, match=r"--set .*expected section\.key=value"):
        recipe.override({}, assignment)


def test_override_below_a_value() -> None:
    with pytest.raises(RecipeError, match="seed is not a section"):
        recipe.override({"seed": 1}, "seed.deeper=2")


def test_variables_in_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HSI_PLACE", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("HSI_NOWHERE", raising=False)
    assert recipe.expanded("$HSI_PLACE/a.tif") == f"{tmp_path}/a.tif"
    assert recipe.expanded("${HSI_PLACE}/a.tif") == f"{tmp_path}/a.tif"
    assert recipe.expanded("~/a.tif") == "/home/somebody/a.tif"
    assert recipe.expanded("a b.tif") == "a b.tif"
    with pytest.raises(RecipeError, match=r"\$HSI_NOWHERE/a\.tif.*not set"):
        recipe.expanded("$HSI_NOWHERE/a.tif")


def test_every_shipped_recipe_parses() -> None:
    assert len(recipe.shipped()) >= 3
    for name in recipe.shipped():
        for spelling in (name, f"{name}.toml"):
            parsed = recipe.parse(recipe.load(spelling))
        scene, _, protocol = name.partition("-")
        assert scene
        # Recipes of the standard benchmarks serve any method.
        assert protocol in (parsed.method, "fixed", "few")
        methods.check_options(parsed.method, parsed.options)


def test_recipe_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(recipe.dump(recipe.parse(MINIMAL)))
    assert recipe.parse(recipe.load(str(path))) == recipe.parse(MINIMAL)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    with pytest.raises(RecipeError, match=r"no method or recipe .*mine\.toml.*--list"):
        recipe.load(str(path))
    with pytest.raises(RecipeError, match="no method or recipe"):
        recipe.load(str(tmp_path))
    for content in (b"method = ", b"\xff\xfe", b"II*\x00\x08"):
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=r"mine\.toml is not TOML"):
            recipe.load(str(path))


DEEP = 20_000


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(f"options = {'[' * DEEP}{']' * DEEP}")
    with pytest.raises(RecipeError, match=r"deep\.toml is nested too deeply"):
        recipe.load(str(path))
    with pytest.raises(RecipeError, match=r"--set options\.x: .*nested too deeply"):
        recipe.override({}, f"options.x={'[' * DEEP}{']' * DEEP}")
    value: Any = []
    for _ in range(DEEP):
        value = [value]
    with pytest.raises(RecipeError, match="features"):
        methods.check_options("mf2cnet", {"features": value})
    data: dict[str, Any] = {"scenes": ["a"], "labels": ["b"], "exclude": value}
    with pytest.raises(RecipeError, match="nested too deeply"):
        recipe.parse({"method": "mf2cnet", "data": data})


def test_lengths_exclude_each_other() -> None:
    content: dict[str, Any] = {
        "method": "lda", "data": {"scenes": ["s.tif"], "labels": ["l.tif"]}
    }  # fmt: skip
    for fit in ({"epochs": 3, "quick": True}, {"quick": True, "budget": "1h"}):
        with pytest.raises(RecipeError, match="epochs, quick and budget exclude"):
            recipe.parse(content | {"fit": fit})
    with pytest.raises(RecipeError, match=r"'soon' is not a time such as 30s.*fit"):
        recipe.parse(content | {"fit": {"budget": "soon"}})
    assert recipe.parse(content | {"fit": {"budget": "1.5h"}}).fit.budget == "1.5h"
    assert recipe.seconds_of("1.5h") == 5400


def test_values_and_keys_beyond_reason_are_told(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    path.write_text(f"seed = {'9' * 5000}\n")
    with pytest.raises(RecipeError, match=r"long\.toml is not TOML: Exceeds the limit"):
        recipe.load(str(path))
    path.write_bytes(b"#" * (recipe.MOST_BYTES + 1))
    with pytest.raises(RecipeError, match="at most 1048576 are read"):
        recipe.load(str(path))
    for text in ("a." * 200_000 + "a = 1", "a = {b" + ".b" * 200_000 + " = 1}"):
        path.write_text(text)
        with pytest.raises(RecipeError, match="more than 64 dots"):
            recipe.load(str(path))
    with pytest.raises(RecipeError, match=r"--set seed: .* is no TOML: Exceeds"):
        recipe.override({}, f"seed={'9' * 5000}")
    content: dict[str, Any] = {"method": "lda"}
    content["data"] = {"scenes": ["s"], "labels": ["l"]}
    recipe.override(content, f"options.{'.'.join('a' * 20_000)}=1")
    with pytest.raises(RecipeError, match="nested too deeply"):
        recipe.parse(content)


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_paths_that_no_file_can_have(path: str) -> None:
    with pytest.raises(RecipeError, match="path"):
        recipe.expanded(path)
