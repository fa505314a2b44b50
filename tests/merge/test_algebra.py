"""Linear algebra of merges: exact at every size, the same bytes on any number of threads."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from smelt.merge import algebra
from tests.merge import oracles
from tests.merge.research import ON_MATRICES, assert_close, everything, merged, models


@pytest.mark.parametrize("shape", [(600, 40), (40, 600)])
def test_large_matrices_decompose_like_small_ones(shape: tuple[int, int]) -> None:
    """Above DIRECT by the Gram matrix: the same values, and the noise is left out."""
    random = np.random.default_rng(1)
    left = np.linalg.qr(random.standard_normal((shape[0], 30)))[0]
    right = np.linalg.qr(random.standard_normal((shape[1], 30)))[0]
    strengths = 10.0 ** -np.linspace(0, 3, 30)
    matrix = (left * strengths) @ right.T + 1e-9 * random.standard_normal(shape)
    parts = algebra.svd(matrix)
    assert parts.left.shape == (shape[0], 30)
    assert parts.right.shape == (30, shape[1])
    np.testing.assert_allclose(parts.values[:30], strengths, atol=1e-8)
    exact = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(algebra.polar(matrix), exact[0][:, :30] @ exact[2][:30], atol=1e-7)
    np.testing.assert_allclose((parts.left * parts.values[:30]) @ parts.right, matrix, atol=1e-7)
    two = algebra.svd(matrix, most=2)
    np.testing.assert_allclose(two.right, parts.right[:2], atol=1e-12)


@pytest.mark.parametrize("method", ON_MATRICES)
def test_large_matrices_equal_the_oracle(method: str) -> None:
    base, experts = models((24, 600), 2, kind=np.float32)
    oracle = {"swudi": oracles.wudi, "wudi": oracles.wudi_adam}.get(method)
    values = {"steps": 20} if method == "wudi" else {}
    expected = (oracle or getattr(oracles, method))(base, experts, **values)
    assert_close(merged(method, base, experts, **values), expected, base, 1e-4)


@pytest.mark.parametrize("method", [*ON_MATRICES, "regmean"])
def test_same_bytes_for_any_number_of_threads(method: str) -> None:
    base, experts, extras = everything(method, (400, 530), np.float32)
    values = {"steps": 3} if method == "wudi" else {}
    found = []
    for count in (1, 2, 3):
        with threadpool_limits(count, user_api="blas"):
            found.append(merged(method, base, experts, extras=extras, **values).tobytes())
    assert found[0] == found[1] == found[2]
