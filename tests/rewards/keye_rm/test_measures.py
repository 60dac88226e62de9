"""Measures of an evaluation, on records whose answers can be counted by hand."""

import math

import pytest

from rewards.keye_rm.measures import agreement, baselines, difference, mode_table, report, share


def record(
    number, value, verdicts, *, mode="think", length="equal", violated="clarity", found=None
):
    return {
        "id": str(number),
        "mode": mode,
        "violated": violated,
        "task_type": "digits/sum",
        "value": value,
        "verdicts": verdicts,
        "longer": length == "longer",
        "shorter": length == "shorter",
        "judgements": len(verdicts),
        "malformed": verdicts.count(None),
        "tokens": 20,
        "dimension": found,
    }


RECORDS = [
    record(0, 0.9, [True, True], length="longer", found=True),
    record(1, 0.8, [True, True], length="longer", found=False),
    record(2, 0.4, [True, False], length="shorter", violated="safety"),  # says "first" twice
    record(3, None, [None, None], length="shorter", violated="safety"),
    record(4, 0.5, [False, True]),  # says "second" twice: a tie is not right
    record(5, 0.6, [None, True], length="shorter", found=True),
]


def test_one_mode():
    table = mode_table(RECORDS)
    assert table["accuracy"]["value"] == pytest.approx(3 / 6)
    assert table["single_order"]["value"] == pytest.approx((1 + 1 + 0.5 + 0 + 0.5 + 0.5) / 6)
    assert table["malformed"]["value"] == pytest.approx(3 / 12)
    assert table["tokens"]["value"] == 10 and table["judgements"] == 12
    assert table["violated"]["safety"]["value"] == 0.0 and table["violated"]["safety"]["n"] == 2
    assert table["longer_better"]["value"] == 1.0
    assert table["shorter_better"]["value"] == pytest.approx(1 / 3)
    assert table["length_bias"]["value"] == pytest.approx(2 / 3)
    assert table["dimension_found"] == share([True, False, True])
    # Share of "the first": 1/2, 1/2, 1, none, 0, and in the last only the second order is read,
    # where the better one stands second and was chosen.
    shares = [0.5, 0.5, 1.0, 0.5, 0.0, 0.0]
    assert table["position_bias"]["value"] == pytest.approx(sum(shares) / 6 - 0.5)


def test_shares_are_wilson_s():
    """Wilson (1927): for 8 of 10 the interval is 0.490…0.943."""
    leaf = share([True] * 8 + [False] * 2)
    assert leaf["value"] == 0.8 and leaf["n"] == 10
    assert leaf["low"] == pytest.approx(0.4902, abs=1e-4)
    assert leaf["high"] == pytest.approx(0.9433, abs=1e-4)


def test_difference_of_independent_means():
    leaf = difference([1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0])
    half = 1.959964 * math.sqrt((1 / 3 + 1 / 4) / 4)
    assert leaf["value"] == 0.25
    assert leaf["high"] - leaf["value"] == pytest.approx(half, rel=1e-5)


def test_agreement_counts_pairs_that_both_could_judge():
    other = [
        record(0, 0.7, [True, True], mode="no_think"),
        record(1, 0.1, [False, False], mode="no_think"),
        record(2, 0.2, [False, False], mode="no_think"),
        record(3, 0.9, [True, True], mode="no_think"),
    ]
    found = agreement(RECORDS, other)
    assert found["n"] == 3 and found["value"] == pytest.approx(2 / 3)
    assert agreement(RECORDS[3:4], other)["n"] == 0


def test_baselines_need_no_model():
    """Three of the better responses are shorter, two longer, one equal: at best 3.5 of 6."""
    found = baselines(RECORDS)
    assert found["length"]["value"] == pytest.approx(3.5 / 6)
    assert baselines(RECORDS[:3])["length"]["value"] == pytest.approx(2 / 3)
    assert 0.5 <= found["majority"]["value"] < 1 and found["majority"]["n"] == 6


def test_the_report_puts_the_modes_beside_each_other():
    short = [record(k, 0.9, [True, True], mode="no_think") for k in range(6)]
    found = report(RECORDS + short)
    assert list(found["modes"]) == ["think", "no_think"]
    assert found["modes"]["no_think"]["accuracy"]["value"] == 1.0
    assert found["agreement"]["n"] == 5 and found["agreement"]["value"] == pytest.approx(3 / 5)
    assert "length_bias" not in found["modes"]["no_think"]
    assert "length_bias_matched" not in found["modes"]["think"]
    assert "agreement" not in report(RECORDS)


def test_length_pairs_measure_the_liking_for_length_and_nothing_else():
    probes = [
        record(10, 0.9, [True, True], length="longer") | {"length_pair": True},
        record(11, 0.8, [True, True], length="longer") | {"length_pair": True},
        record(12, 0.9, [True, True], length="shorter") | {"length_pair": True},
        record(13, 0.2, [False, False], length="shorter") | {"length_pair": True},
    ]
    table = report(RECORDS + probes)["modes"]["think"]
    assert table["length_bias_matched"]["value"] == 0.5 and table["length_bias_matched"]["n"] == 4
    assert {k: v for k, v in table.items() if k != "length_bias_matched"} == mode_table(RECORDS)
