from tables import table


def test_bars_stay_bars_in_every_viewer() -> None:
    text = table(("a|b", "c"), [("`int | None`", "x | y"), ("`a` | `b`", "`<a>|b`")])
    assert text.splitlines() == [
        r"| a\|b | c |",
        "| --- | --- |",
        r"| <code>int &#124; None</code> | x \| y |",
        r"| `a` \| `b` | <code>&lt;a&gt;&#124;b</code> |",
    ]
