from sensor_pairs import cell, markdown


def rows(**shares: float | None) -> list[dict[str, object]]:
    """Describe pairs, ``SOURCE_TARGET=accuracy``, of one landscape."""
    return [
        dict(zip(("source", "target"), pair.split("_"), strict=True))
        | {"method": "lda", "seed": 0, "overall_accuracy": share}
        for pair, share in shares.items()
    ]


def test_a_cell_compares_with_the_model_of_the_mapped_sensor() -> None:
    pairs = rows(emit_emit=0.8, neon_emit=0.75, emit_neon=None, neon_neon=0.9)
    assert cell(pairs, "emit", "emit") == "80.0"
    assert cell(pairs, "neon", "emit") == "75.0 (-5.0)"
    assert cell(pairs, "emit", "neon") == "refused"


def test_a_cell_is_the_mean_of_the_landscapes() -> None:
    pairs = rows(emit_emit=0.8) + rows(emit_emit=0.7)
    assert cell(pairs, "emit", "emit") == "75.0"


def test_methods_that_were_not_measured_have_no_table() -> None:
    products = ("enmap", "desis", "prisma", "emit", "neon", "tanager", "aviris3")
    pairs = rows(**{f"{a}_{b}": 0.5 for a in products for b in products})
    text = markdown(pairs)
    assert "`lda`, 1 landscape(s)" in text
    assert "s2vnet" not in text
