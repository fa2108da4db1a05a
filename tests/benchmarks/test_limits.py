"""That first forms still run, and that a measurement that fails says so."""

import os

import common
import limits
import pytest

# The others' first form is their plain network.
REBUILT = ("mf2cnet", "s2vnet")


@pytest.mark.parametrize("name", REBUILT)
def test_the_first_form_of_a_method_is_the_same_function(name: str) -> None:
    found = limits.measure(name, bands=30, classes=3, sides=(6,), rounds=1)
    assert found["max_probability_difference"] < 1e-5
    assert found["nodes"]["now"] != found["nodes"]["first"]
    row = found["by_tile"][6]
    assert row["macs_per_pixel"] > 0
    assert row["first_macs_per_pixel"] > 0
    assert 0 < row["share_of_product"] < 1


def test_another_process_does_the_work_and_its_errors_rise() -> None:
    assert common.apart(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        common.apart(divmod, 1, 0)
