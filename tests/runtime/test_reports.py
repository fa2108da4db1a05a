from hsi_runtime.reports import as_lines


def test_values_are_written_for_people() -> None:
    said = as_lines(
        {
            "classes": {1: "roof", 4: "tree"},
            "bands_read": [1, 2, 3, 4, 9, 11, 12],
            "wavelengths_nm": [418.24, 2445.5312],
            "macs_per_pixel": 377555.57080078125,
            "overall_accuracy": 0.7274809160305343,
            "max_abs_difference": 1.7881393432617188e-07,
            "parameters": 173746,
            "reject_below": None,
            "scale_declared": False,
            "outputs": ["probabilities", "abundances"],
            "none_read": [],
        }
    )
    assert said.splitlines() == [
        "classes: 1 roof, 4 tree",
        "bands_read: 1-4, 9, 11-12",
        "wavelengths_nm: 418.2, 2446",
        "macs_per_pixel: 377,556",
        "overall_accuracy: 0.7275",
        "max_abs_difference: 1.788e-07",
        "parameters: 173,746",
        "reject_below: none",
        "scale_declared: no",
        "outputs: probabilities, abundances",
        "none_read: none",
    ]
