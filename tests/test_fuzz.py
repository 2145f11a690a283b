"""A slice of the fuzzer (`fuzz/`); the whole of it is a command, ``cd tests && python -m fuzz``."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import boundary
from fuzz.differential import failures
from fuzz.operations import OPERATIONS
from fuzz.problems import draw, numbered, parse


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_random_problems_equal_plain_formulas(random):
    problem = draw(random)
    lines = failures(problem)
    assert not lines, "\n".join([str(problem), *lines])


def test_numbered_problems_equal_plain_formulas():
    """What hypothesis would rather not draw: large sizes, odd combinations."""
    found = {}
    for index in range(3000):
        problem = numbered(0, index)
        if lines := failures(problem):
            found[str(problem)] = lines
    assert not found


def test_the_line_of_a_problem_repeats_it():
    drawn = [numbered(1, index) for index in range(300)]
    assert {problem.operation for problem in drawn} == set(OPERATIONS)
    for problem in drawn:
        assert parse(str(problem)) == problem


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=64))
def test_arbitrary_arguments_are_answered_or_refused(data):
    boundary.call(data)


# Lines that found something, kept.
FOUND = [
    # A 1 x 1 kernel whose stride exceeds one axis: the image was taken for one row, outputs were wrong.
    "conv2d n=1 ic=1 oc=1 kh=1 sh=1 ph=0 uh=1 ih=7 kw=1 sw=12 pw=0 uw=1 iw=3 algorithm=auto threads=1 "
    "seed=4203789998 A=uint8/integers/C W=int8/integers/C b=float16/normal/C",
    # The pure kernels lost NaN times zero in BLAS.
    "conv2d_backward n=1 ic=3 oc=1 kh=5 sh=1 ph=2 uh=1 ih=6 kw=5 sw=2 pw=1 uw=1 iw=4 algorithm=auto "
    "threads=3 seed=2328468517 dLdZ=float32/special/negative_strides A=float32/special/C W=float32/zeros/C",
    "conv2d n=3 ic=1 oc=1 kh=1 sh=1 ph=1 uh=1 ih=6 kw=2 sw=1 pw=1 uw=2 iw=3 algorithm=winograd threads=1 "
    "seed=1017130001 A=float64/special/C W=float64/zeros/C b=float64/zeros/all_strides_zero",
    # np.einsum over no terms gave what lay in memory.
    "conv2d n=1 ic=2 oc=1 kh=2 sh=12 ph=1 uh=2 ih=8 kw=1 sw=1 pw=0 uw=2 iw=7 algorithm=auto threads=1 "
    "seed=1396097501 A=float64/special/C W=float64/special/zero_strides_in_the_batch b=float64/tiny/C",
]


@pytest.mark.parametrize("line", FOUND)
def test_what_was_found_stays_mended(line):
    assert failures(parse(line)) == []
