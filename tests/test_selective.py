"""Risk and coverage: by hand, against scikit-learn, and ties that change nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe.evaluation.metrics import augrc, aurc, risk_at, risk_coverage, threshold_for

SURE = [0.9, 0.8, 0.7, 0.6, 0.5]
WRONG = [False, True, False, False, True]


def test_curve_and_areas_by_hand():
    coverage, risk = risk_coverage(SURE, WRONG)
    assert coverage.tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 4, 2 / 5])
    assert aurc(SURE, WRONG) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert augrc(SURE, WRONG) == pytest.approx((0 + 1 + 1 + 1 + 2) / 25)
    assert risk_at(SURE, WRONG, 0.8) == pytest.approx(1 / 4)
    assert risk_at(SURE, WRONG, 0.61) == pytest.approx(1 / 4)
    assert risk_at(SURE, WRONG, 1.0) == pytest.approx(2 / 5)


def test_augrc_is_what_its_authors_give():
    """Traub et al. 2024, eq. 7: (1 - AUROC_f) acc (1 - acc) + (1 - acc)^2 / 2, for large n."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    wrong = rng.random(20_000) < 0.3
    sure = rng.random(20_000) - 0.3 * wrong
    accuracy = 1 - wrong.mean()
    expected = (1 - roc_auc_score(~wrong, sure)) * accuracy * (1 - accuracy)
    expected += (1 - accuracy) ** 2 / 2
    assert augrc(sure, wrong) == pytest.approx(expected, abs=1e-4)


def test_the_threshold_is_the_lowest_that_keeps_the_risk():
    assert threshold_for(SURE, WRONG, risk=0.25) == 0.6
    assert threshold_for(SURE, WRONG, risk=0.4) == 0.5
    assert threshold_for(SURE, WRONG, risk=0.1) == 0.9
    assert threshold_for(SURE, [True] * 5, risk=0.5) == 2.0


def test_clips_of_equal_confidence_are_answered_together():
    """Two clips at 0.6, one wrong: half an error each, and no threshold lies between them."""
    sure, wrong = [0.9, 0.6, 0.6], [False, False, True]
    assert risk_coverage(sure, wrong)[1] == pytest.approx([0, 0.25, 1 / 3])
    assert threshold_for(sure, wrong, risk=0.3) == 0.9


@given(
    st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
    st.floats(0.01, 0.99),
)
def test_order_changes_nothing_and_the_threshold_holds(clips, shuffle, risk):
    sure, wrong = map(np.array, zip(*clips, strict=True))
    shuffle.shuffle(clips)
    other_sure, other_wrong = map(np.array, zip(*clips, strict=True))
    for figure in (aurc, augrc):
        assert figure(sure, wrong) == pytest.approx(figure(other_sure, other_wrong))
    threshold = threshold_for(sure, wrong, risk=risk)
    assert threshold == threshold_for(other_sure, other_wrong, risk=risk)
    answered = sure >= threshold
    if answered.any():
        assert wrong[answered].mean() <= risk + 1e-12
    for lower in set(sure.tolist()):
        if lower < threshold:
            assert wrong[sure >= lower].mean() > risk - 1e-12
