"""Small linear algebra for kernels: no arrays are made, no library is called."""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import leaf_kernel

SMALLEST_PIVOT = 1e-9  # of a unit diagonal; below, an unknown is fixed by rounding errors alone


@leaf_kernel
def invert_positive(matrix, n, inverse):
    """Inverse of a positive definite matrix by its Cholesky factor.

    Parameters
    ----------
    matrix : ndarray, at least (n, n)
        Its lower triangle is given; used as work space.
    n : int
        Rows that count.
    inverse : ndarray, at least (n, n)
        Filled.

    Returns
    -------
    bool
        False if the matrix is singular: scaled to a unit diagonal, a pivot is below SMALLEST_PIVOT.
    """
    for a in range(n):
        if not matrix[a, a] > 0.0:
            return False
        inverse[a, a] = 1.0 / np.sqrt(matrix[a, a])
    for a in range(n):
        for b in range(a + 1):
            matrix[a, b] *= inverse[a, a] * inverse[b, b]
    for a in range(n):
        for b in range(a + 1):
            total = matrix[a, b]
            for c in range(b):
                total -= matrix[a, c] * matrix[b, c]
            if a == b:
                if not total > SMALLEST_PIVOT:
                    return False
                matrix[a, a] = np.sqrt(total)
            else:
                matrix[a, b] = total / matrix[b, b]
    # Upper triangle of the work matrix: the inverse of the factor, transposed; the scales stay on the diagonal of ``inverse``.
    for b in range(n):
        for a in range(b, n):
            total = 1.0 if a == b else 0.0
            for c in range(b, a):
                total -= matrix[a, c] * (matrix[b, c] if c > b else 1.0 / matrix[b, b])
            if a > b:
                matrix[b, a] = total / matrix[a, a]
    for a in range(n):
        for b in range(a):
            total = 0.0
            for c in range(a, n):
                left = 1.0 / matrix[a, a] if c == a else matrix[a, c]
                total += left * matrix[b, c]
            inverse[a, b] = total * inverse[a, a] * inverse[b, b]
            inverse[b, a] = inverse[a, b]
    for a in range(n):
        total = 1.0 / (matrix[a, a] * matrix[a, a])
        for c in range(a + 1, n):
            total += matrix[a, c] * matrix[a, c]
        inverse[a, a] *= total * inverse[a, a]
    return True
