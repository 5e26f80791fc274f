"""Which second derivatives go up: what is remembered of them."""

from __future__ import annotations

from manualbp.maths import order


def test_other_pairs_at_every_step_are_not_all_kept() -> None:
    """As where pairs are drawn. What was forgotten is made again, alike."""
    first = order.order_of(((0, 1),), 2)
    assert order.order_of(((0, 1),), 2) is first
    for k in range(3 * order.MOST):
        order.order_of(((k, k),), k + 1)
    assert len(order._orders) <= order.MOST
    again = order.order_of(((0, 1),), 2)
    assert (again.pairs, again.columns, again.rows) == (first.pairs, first.columns, first.rows)
