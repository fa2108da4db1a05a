import unmixing


def test_the_table_has_a_row_for_each_start_and_the_means() -> None:
    vca = {"angle_rad": 0.1, "abundance_rmse": 0.2}
    ours = vca | {"abundance_rmse_by_least_squares": 0.3}
    spread = {key: {"mean": value, "std": 0.05} for key, value in ours.items()}
    figures = {
        "starts": [{"start": n, "vca_nnls": vca, "s2vnet": ours} for n in (0, 1)],
        "starts_that_lost_no_material": {
            "count": 1,
            "vca_nnls": spread,
            "s2vnet": spread,
        },
        "start_of_the_largest_simplex": {
            "start": 1,
            "vca_nnls": vca,
            "s2vnet_seeds": [ours] * 5,
            "s2vnet": spread,
        },
    }
    rows = unmixing.markdown(figures).splitlines()[-4:]
    assert rows[0] == "| 0 | 0.100 | 0.200 | 0.100 | 0.200 | 0.300 |"
    assert rows[2].startswith("| mean of the 1 starts that lost no material | 0.100 ± ")
    assert rows[3].startswith("| largest simplex (start 1), 5 seeds | 0.100 | 0.200 | ")
