import pytest

from shared import errors
from shared.errors import PROBLEMS, InvalidSettings, ProvisionerError


def test_problems_are_all_errors_that_can_refuse_a_request():
    """`deerflow_refusals` starts with the codes of this tuple, so a missing error would have no series at first."""
    names = vars(errors).values()
    family = {kind for kind in names if isinstance(kind, type) and issubclass(kind, ProvisionerError)}
    assert set(PROBLEMS) == family - {ProvisionerError, InvalidSettings}


def test_problem_codes_are_unique():
    codes = [ProvisionerError.code, *(error.code for error in PROBLEMS)]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("error", PROBLEMS, ids=lambda error: error.__name__)
def test_problem_has_a_status_of_an_error_and_a_title_without_period(error: type[ProvisionerError]):
    assert 400 <= error.status < 600
    assert error.title[0].isupper()
    assert not error.title.endswith(".")
