"""The tables in layers.py leave out no public layer or function, and all that is public is documented."""

import inspect

import pytest

import fastconv
from fastconv import functional
from layers import CASES, FUNCTIONS, LOSSES, MODELS, make_cnn

# Not layers by themselves.
BASES = {fastconv.Layer}


def test_every_public_layer_is_in_a_table():
    modules = fastconv, fastconv.nn, fastconv.models
    public = {getattr(module, name) for module in modules for name in module.__all__}
    layers = {x for x in public if inspect.isclass(x) and issubclass(x, fastconv.Layer)}
    tabled = {type(case.make()) for case in CASES + MODELS} | set(LOSSES) | {type(make_cnn())}
    assert layers - BASES == tabled


def test_every_function_is_in_the_table():
    public = {name for name in functional.__all__ if not inspect.isclass(getattr(functional, name))}
    assert public == {function.name for function in FUNCTIONS}


@pytest.mark.parametrize("case", CASES + MODELS, ids=str)
def test_a_case_is_named_after_its_layer_and_runs(case, rng):
    layer = case.make()
    assert case.name.startswith(type(layer).__name__)
    Z = layer.forward(case.input(rng))
    assert layer.backward(rng.standard_normal(Z.shape)).shape == case.shape


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_a_function_takes_its_arrays_by_their_names(function, rng):
    names = inspect.signature(getattr(functional, function.name)).parameters
    assert set(function.shapes) <= set(names)
    function.call(**function.inputs(rng))


@pytest.mark.parametrize("case", [case for case in CASES if case.parameters], ids=str)
def test_a_case_names_the_parameters_of_its_layer(case):
    layer = case.make()
    for name in case.parameters:
        assert getattr(layer, name).shape == getattr(layer, f"dLd{name}").shape


@pytest.mark.parametrize("module", [fastconv, functional, fastconv.nn, fastconv.models])
def test_all_public_names_are_there_and_documented(module):
    assert len(set(module.__all__)) == len(module.__all__)
    assert module.__doc__
    for name in module.__all__:
        value = getattr(module, name)
        if name != "__version__":
            assert value.__doc__, f"{module.__name__}.{name} has no docstring"


def test_conv2d_padding_is_another_name():
    assert fastconv.Conv2d_padding is fastconv.Conv2d
