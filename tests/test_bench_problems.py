"""Problem strings: what they say, that they come back, and the operations they count."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastconv.bench import BenchError, growth, suites
from fastconv.bench.problems import Problem, parse

# Hypothesis reads every module that is loaded, PyTorch's and JAX's too, before its first example.
patient = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
small = st.integers(1, 9)


@st.composite
def problems(draw):
    op = draw(st.sampled_from(["conv", "max", "mean", "bn", "relu", "softmax", "linear", "xent", "mse"]))
    dims = {"conv": (1, 2), "relu": (0, 1, 2)}.get(op, (2,) if op in ("max", "mean", "bn") else (0,))
    count = draw(st.sampled_from(dims))

    def sizes(values):
        return draw(st.tuples(*[values] * count))

    kernel = sizes(small) if op in ("conv", "max", "mean") else ()
    steps = op == "conv"
    image = tuple(k + draw(small) for k in kernel) if kernel else sizes(small)
    none = (1,) * len(kernel)
    return Problem(
        op, draw(small), draw(small), draw(small) if op in ("conv", "linear") else 0, image, kernel,
        sizes(small) if kernel else (),
        sizes(st.integers(0, 4)) if steps else tuple(0 for _ in kernel),
        sizes(small) if steps else none,
    )


@patient
@given(problems())
def test_a_problem_comes_back_from_its_string(problem):
    assert parse(str(problem)) == problem


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("n8ic64ih32iw32oc64kh3kw3sh1sw1ph1pw1", "n8ic64ih32oc64kh3ph1"),
        ("conv:n1ic3ih8oc4kh3", "ic3ih8oc4kh3"),
        ("oc4kh3ih8ic3", "ic3ih8oc4kh3"),
        ("ic3ih8iw6oc4kh3kw1sw2", "ic3ih8iw6oc4kh3kw1sw2"),
        ("n32ic24iw128oc8kw8sw4pw0", "n32ic24iw128oc8kw8sw4"),
        ("max:n8ic64ih56kh2sh2sw2", "max:n8ic64ih56kh2sh2"),
        ("import", "import"),
    ],
)
def test_defaults(text, same):
    assert str(parse(text)) == same


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "conv wants"),
        ("pad:ic1ih3", "unknown operation 'pad'"),
        ("n8ic64ih32 oc64kh3", "not a row of names and numbers"),
        ("n8ic64xx3ih32", "unknown size 'xx'"),
        ("n8n8ic3ih4oc1kh1", "n comes twice"),
        ("n0ic3ih4oc1kh1", "n must be at least 1"),
        ("ic3ih4oc1kh1sh0", "sh must be at least 1"),
        ("ic3ih4oc1", "conv wants kh"),
        ("ic3iw4oc1kh1", "conv wants kw"),
        ("ic3iw4oc1kw1sh2", "conv of one dimension has no sh"),
        ("ic3ih4kh1", "conv wants oc"),
        ("max:ic3ih4kh2ph1", "max has no ph"),
        ("bn:ic3ih4kh2", "bn has no kh"),
        ("softmax:ic3ih4", "softmax wants no image"),
        ("ic1ih4oc1kh5", "larger than the image"),
        ("resnet:ic3ih8oc10", "fixed sizes"),
        ("import:n2", "import has no sizes"),
        ("ic" + "9" * 20 + "ih4oc1kh1", "ic has more than 12 digits"),
        ("n100000000000ic4ih4oc1kh1", "its input of shape"),
        ("ic1ih1000000iw1000000oc1kh1", "its input of shape"),
        ("ic1ih3oc1kh1ph1000000000", "its result of shape"),
    ],
)
def test_what_is_no_problem_says_why(text, said):
    with pytest.raises(BenchError, match=said) as caught:
        parse(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a" * 10**6, "ic1" * 10**5 + "x", "1" * 10**6, "x" * 10**6 + ":ic1"],
                         ids=range(4))
def test_what_is_long_and_no_problem_is_refused_at_once(text):
    with pytest.raises(BenchError) as caught:
        parse(text)
    assert len(str(caught.value)) < 500


def counted(problem):
    """Multiply-adds of a convolution, one by one."""
    pairs = 1
    for axis in range(len(problem.size)):
        hits = 0
        for p, u in itertools.product(range(problem.out_size[axis]), range(problem.kernel[axis])):
            hits += (p * problem.stride[axis] + u - problem.padding[axis]) % problem.up[axis] == 0
        pairs *= hits
    return problem.n * problem.ic * problem.oc * pairs


@pytest.mark.parametrize(
    ("text", "operations"),
    [
        ("ic1ih3oc1kh3", 2 * 9),
        ("n2ic3ih4oc5kh3ph1", 2 * 2 * 3 * 5 * 16 * 9),  # padding counts
        ("n2ic3ih5oc5kh3sh2", 2 * 2 * 3 * 5 * 4 * 9),
        ("ic2iw8oc3kw4sw2", 2 * 2 * 3 * 3 * 4),
        # 7 outputs of 3 taps on 9 numbers of which every second is there: 2, 1, 2, 1, 2, 1, 2.
        ("ic1iw5oc1kw3uw2", 2 * 11),
        ("linear:n4ic5oc6", 2 * 4 * 5 * 6),
        ("max:ic1ih4kh2", 0),
    ],
)
def test_operations_against_counts_by_hand(text, operations):
    problem = parse(text)
    assert problem.flops("fwd") == operations
    assert problem.flops("bwd") == 2 * operations


@patient
@given(problems())
def test_operations_against_counting_them(problem):
    if problem.op == "conv":
        assert problem.flops("dX") == 2 * counted(problem)


@pytest.mark.parametrize(
    ("text", "pass_", "numbers"),
    [
        ("n2ic3ih4oc5kh3", "fwd", 2 * 3 * 16 + 2 * 5 * 4 + 5 * 3 * 9),
        ("n2ic3ih4oc5kh3", "dW", 2 * 3 * 16 + 2 * 5 * 4 + 5 * 3 * 9),
        ("max:n2ic3ih4kh2sh2", "bwd", 2 * 3 * (16 + 4)),
        ("bn:n2ic3ih4", "fwd", 2 * 2 * 3 * 16),
        ("bn:n2ic3ih4", "bwd", 3 * 2 * 3 * 16),
        ("mse:n2ic3", "fwd", 12),
        ("resnet:ic1ih8oc10", "step", 0),
    ],
)
def test_bytes_against_counts_by_hand(text, pass_, numbers):
    assert parse(text).bytes(pass_, 4) == 4 * numbers


def test_every_suite_has_rows_and_each_once():
    for suite in suites.SUITES:
        rows = suites.rows_of(suite)
        assert len(rows) == len(set(rows)) > 0
        for row in rows:
            assert row.pass_ in suites.PASSES
            assert parse(str(row.problem)) == row.problem


def test_an_unknown_suite():
    with pytest.raises(BenchError, match="unknown suite 'convolution', wanted conv, pool"):
        suites.rows_of("convolution")


@pytest.mark.parametrize("sweep", growth.SWEEPS, ids=lambda sweep: sweep.name)
def test_operations_of_a_sweep_grow_as_it_says(sweep):
    operations = [sweep.problem(value).flops("fwd") for value in sweep.values]
    assert growth.exponent(sweep.values, operations) == pytest.approx(sweep.expected)


def test_exponent_of_a_power():
    sizes = np.array([3, 5, 9, 20])
    assert growth.exponent(sizes, 7e-6 * sizes**1.75) == pytest.approx(1.75)
