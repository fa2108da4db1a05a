from typing import Any

import click
import pytest

from hsi_runtime import option_values
from hsi_runtime.walk.windows import Window


def parsed(check: Any, value: str | None) -> Any:
    context = click.Context(click.Command("hsi-run"))
    return check(context, click.Option(["--x"]), value)


@pytest.mark.parametrize("name", ["window", "bounds", "memory_bytes", "shard"])
def test_option_that_is_not_given_is_none(name: str) -> None:
    assert parsed(getattr(option_values, name), None) is None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("window", "3,4,50,60", Window(row=4, col=3, rows=60, cols=50)),
        ("window", " 0, 0, 1, 1", Window(0, 0, 1, 1)),
        ("bounds", "-1.5,2,3e1,4", (-1.5, 2.0, 30.0, 4.0)),
        ("memory_bytes", "1000", 1000),
        ("memory_bytes", "512M", 512 * 1024**2),
        ("memory_bytes", "1.5g", 3 * 512 * 1024**2),
        ("memory_bytes", " 2GiB ", 2 * 1024**3),
        ("memory_bytes", "10kB", 10 * 1024),
        ("reject", None, 0.0),
        ("reject", "auto", None),
        ("reject", "0.6", 0.6),
        ("reject", "1", 1.0),
        ("shard", "0/1", (0, 1)),
        ("shard", "2/3", (2, 3)),
    ],
)
def test_good_values(name: str, value: str | None, expected: Any) -> None:
    assert parsed(getattr(option_values, name), value) == expected


@pytest.mark.parametrize("variable", option_values.ARRAY_INDEXES)
def test_auto_takes_the_index_of_the_job_array(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in option_values.ARRAY_INDEXES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(click.BadParameter, match="needs a job array"):
        parsed(option_values.shard, "auto/4")
    monkeypatch.setenv(variable, "3")
    assert parsed(option_values.shard, "auto/4") == (3, 4)
    with pytest.raises(click.BadParameter, match=r"'3/3' is not I/N"):
        parsed(option_values.shard, "auto/3")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("window", "", "four whole numbers"),
        ("window", "1,2,3", "four whole numbers"),
        ("window", "1,2,3,4,5", "four whole numbers"),
        ("window", "1,2,3,4.5", "four whole numbers"),
        ("window", "0,0,inf,4", "four whole numbers"),
        ("window", "nan,0,1,4", "four whole numbers"),
        ("bounds", "1,2,3", "four numbers"),
        ("bounds", "1,2,3,x", "four numbers"),
        ("memory_bytes", "", "is not a size"),
        ("memory_bytes", "0", "is not a size"),
        ("memory_bytes", "-2G", "is not a size"),
        ("memory_bytes", "2X", "is not a size"),
        ("memory_bytes", "inf", "is not a size"),
        ("memory_bytes", "9" * 400, "is not a size"),
        ("memory_bytes", "0.0G", "is not a size"),
        ("reject", "", "neither a probability nor auto"),
        ("reject", "most", "neither a probability nor auto"),
        ("shard", "1", "I from 0 to N-1"),
        ("shard", "3/3", "I from 0 to N-1"),
        ("shard", "0/0", "I from 0 to N-1"),
        ("shard", "-1/3", "I from 0 to N-1"),
        ("shard", "1/2/3", "I from 0 to N-1"),
        ("shard", "1/" + "9" * 5000, "I from 0 to N-1"),
        ("shard", "١/٣", "I from 0 to N-1"),  # noqa: RUF001
    ],
)
def test_bad_values_are_named(name: str, value: str, said: str) -> None:
    with pytest.raises(click.BadParameter, match=said) as error:
        parsed(getattr(option_values, name), value)
    assert repr(value) in error.value.message
