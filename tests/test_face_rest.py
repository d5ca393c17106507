"""Bad input of what is not in the walk of `test_face`: a verdict, the tour, the map."""

import numpy as np
import pytest

import jinit
from tests.face import BAD

pytestmark = pytest.mark.bad_input


@pytest.mark.parametrize("name", BAD)
def test_a_verdict_of_something_else_is_one_sentence(name):
    with pytest.raises(TypeError, match="coordinate_verdict reads what coordinate_check gives"):
        jinit.models.coordinate_verdict(BAD[name])


@pytest.mark.parametrize("setting", [None, "quick", {}, np.ones(3)])
def test_a_setting_of_the_tour_that_is_none(setting, tmp_path):
    with pytest.raises(TypeError, match=r"setting must be jinit\.tour\.FULL, QUICK or a Setting"):
        jinit.take_tour(tmp_path / "tour", setting)


def test_depths_that_are_no_list():
    with pytest.raises(TypeError, match="depths must list numbers of hidden layers"):
        jinit.map_trainability("tanh", depths=BAD["a key"], progress=False)
