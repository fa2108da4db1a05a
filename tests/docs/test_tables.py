from tables import table


def test_bars_are_escaped_outside_of_code_only() -> None:
    found = table(("a|b", "c"), [("`int | None`", "x | y")])
    assert found.splitlines() == [
        r"| a\|b | c |",
        "| --- | --- |",
        r"| `int | None` | x \| y |",
    ]
