"""What a count proves, against the binomial distribution itself."""

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from station.training import bounds


def at_most(successes: int, n: int, rate: float) -> float:
    """The probability of so many successes or fewer, term by term."""
    return sum(comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(successes + 1))


counts = st.integers(1, 120).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_at_the_upper_bound_so_few_successes_happen_once_in_twenty(count: tuple[int, int]) -> None:
    successes, n = count
    if successes < n:
        assert at_most(successes, n, bounds.upper(successes, n)) == pytest.approx(0.05, abs=1e-9)
    else:
        assert bounds.upper(n, n) == 1.0


@given(counts)
def test_at_the_lower_bound_so_many_successes_happen_once_in_twenty(count: tuple[int, int]) -> None:
    successes, n = count
    if successes:
        assert 1 - at_most(successes - 1, n, bounds.lower(successes, n)) == pytest.approx(0.05, abs=1e-9)
    else:
        assert bounds.lower(0, n) == 0.0


@given(counts)
def test_the_observed_rate_lies_between_the_bounds_and_turning_the_question_round_swaps_them(count: tuple[int, int]) -> None:
    successes, n = count
    assert bounds.lower(successes, n) <= successes / n <= bounds.upper(successes, n)
    assert bounds.lower(successes, n) == pytest.approx(1 - bounds.upper(n - successes, n), abs=1e-12)


def test_no_picture_proves_nothing() -> None:
    assert (bounds.lower(0, 0), bounds.upper(0, 0)) == (0.0, 1.0)


def test_no_escape_among_306_defective_pictures_proves_less_than_one_percent() -> None:
    assert bounds.upper(0, 306) == pytest.approx(0.00974, abs=1e-5)


def test_299_pictures_prove_one_percent() -> None:
    assert bounds.needed(0.01) == 299


@given(st.floats(0.001, 0.99))
def test_as_many_as_needed_prove_the_bound_and_one_fewer_does_not(bound: float) -> None:
    n = bounds.needed(bound)
    assert bounds.upper(0, n) <= bound + 1e-12
    assert bounds.upper(0, n - 1) > bound - 1e-12


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (0, -1)])
def test_counts_that_cannot_be_are_refused(successes: int, n: int) -> None:
    for bound in (bounds.lower, bounds.upper):
        with pytest.raises(ValueError, match=f"{successes} of {n}"):
            bound(successes, n)


@pytest.mark.parametrize("bound", [0.0, 1.0, -0.1, float("nan")])
def test_a_bound_that_no_number_of_pictures_proves_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        bounds.needed(bound)
