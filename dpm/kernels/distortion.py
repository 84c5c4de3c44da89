"""Normal equations of a distortion solution: many dithered measurements of stars whose positions are eliminated.

A measurement's position on the common plane depends on the parameters of its unit (shift, scale, rotation), on the
coefficients of a polynomial vector field, and on the four nodes of a table about it.  Columns, in this order: four a unit;
`n_terms` a filter (two of skew, then every power of order two and more for x, then the same for y); for each filter the
table's nodes for x, row by row, then for y.  Plain arrays in, plain arrays out.
"""

from __future__ import annotations

import numpy as np

from dpm.kernels.jit import kernel

__all__ = ["accumulate", "accumulate_gradient", "clipped_medians", "displacement", "n_terms", "neighbor_means", "table_weights"]


def n_terms(order: int) -> int:
    """Coefficients of a filter's polynomial of this order: 2 of skew and 2 for each power of order two and more."""
    return 0 if order < 1 else 2 + 2 * ((order + 1) * (order + 2) // 2 - 3)


@kernel
def _powers(s, t, order, out):
    """Products s^i t^j of order 2 to `order`, in the order (2,0), (1,1), (0,2), (3,0), ...; their number."""
    if order < 2:
        return 0
    out[0] = s * s
    out[1] = s * t
    out[2] = t * t
    n = 3
    for total in range(3, order + 1):
        for j in range(total):
            out[n + j] = s * out[n + j - total]
        out[n + total] = t * out[n - 1]
        n += total + 1
    return n


@kernel
def _node(position, nodes):
    """Lower of the two nodes about a position, and the weight of the upper one; beyond the ends the end's value holds.

    Nodes are evenly spaced but for the first and the last.
    """
    last = nodes.size - 1
    if position <= nodes[0]:
        return 0, 0.0
    if position >= nodes[last]:
        return last - 1, 1.0
    low = min(max(int(np.floor((position - nodes[1]) / (nodes[2] - nodes[1]))) + 1, 0), last - 1)
    return low, (position - nodes[low]) / (nodes[low + 1] - nodes[low])


@kernel
def _row(x, y, u, v, unit, filt, centre, half, order, terms, matrix, reach, node_x, node_y, start, scratch, index, vx, vy):
    """Non-zero columns of one measurement, their derivatives of the plane's two axes; how many."""
    m00 = matrix[unit, 0, 0]
    m01 = matrix[unit, 0, 1]
    m10 = matrix[unit, 1, 0]
    m11 = matrix[unit, 1, 1]
    p = (m00 * u + m01 * v) / reach
    q = (m10 * u + m11 * v) / reach
    for k in range(4):
        index[k] = 4 * unit + k
    vx[0] = 1.0
    vy[0] = 0.0
    vx[1] = 0.0
    vy[1] = 1.0
    vx[2] = p
    vy[2] = q
    vx[3] = -q
    vy[3] = p
    n = 4
    if terms > 0:
        s = (x - centre[0]) / half
        t = (y - centre[1]) / half
        column = start[0] + filt * terms
        vx[n] = m00 * s - m01 * t
        vy[n] = m10 * s - m11 * t
        vx[n + 1] = m00 * t + m01 * s
        vy[n + 1] = m10 * t + m11 * s
        index[n] = column
        index[n + 1] = column + 1
        n += 2
        many = _powers(s, t, order, scratch)
        for k in range(many):
            index[n + k] = column + 2 + k
            vx[n + k] = m00 * scratch[k]
            vy[n + k] = m10 * scratch[k]
            index[n + many + k] = column + 2 + many + k
            vx[n + many + k] = m01 * scratch[k]
            vy[n + many + k] = m11 * scratch[k]
        n += 2 * many
    if node_x.size > 1:
        i, a = _node(x, node_x)
        j, b = _node(y, node_y)
        size = node_x.size * node_y.size
        for dj in range(2):
            for di in range(2):
                h = (a if di else 1.0 - a) * (b if dj else 1.0 - b)
                column = start[1] + 2 * filt * size + (j + dj) * node_x.size + i + di
                index[n] = column
                vx[n] = m00 * h
                vy[n] = m10 * h
                index[n + 1] = column + size
                vx[n + 1] = m01 * h
                vy[n + 1] = m11 * h
                n += 2
    return n


@kernel
def accumulate(
    edges,
    first,
    last,
    unit,
    filt,
    x,
    y,
    u,
    v,
    weight,
    residual_x,
    residual_y,
    star_weight,
    centre,
    half,
    order,
    terms,
    matrix,
    reach,
    node_x,
    node_y,
    start,
    normal,
    gradient,
    block,
):
    """Add the stars `first` to `last` - 1 to the normal matrix (upper triangle) and gradient.

    Parameters
    ----------
    edges : ndarray (n_stars + 1,), int64
        First measurement of each star; measurements are sorted by star.
    unit, filt : ndarray (n,), int64
        Of each measurement.
    x, y, u, v : ndarray (n,)
        Raw position; corrected position from the detector's centre.
    weight : ndarray (n,)
        Inverse variance on the plane; 0 leaves out.
    residual_x, residual_y : ndarray (n,)
        Star's mean less the measurement, on the plane.
    star_weight : ndarray (n_stars,)
        Sum of the weights of a star's measurements and of its reference position.
    centre, half, order, terms
        Origin and half size (pixels) of the polynomial's variables, its order and number of columns a filter.
    matrix : ndarray (n_units, 2, 2)
        Corrected pixels to the plane.
    reach : float
        Length on the plane by which scale and rotation are measured.
    node_x, node_y : ndarray
        Raw positions of the table's nodes; one node: no table.
    start : ndarray (2,), int64
        First columns of the polynomials and of the table.
    normal : ndarray (p, p)
        Added to: sum of w a a^T over the measurements, before the stars are eliminated.
    gradient : ndarray (p,)
        Added to.
    block : ndarray (2 (last - first), p), zeros
        Filled: rows whose squares have to be subtracted from the normal matrix.
    """
    width = 4 + terms + 8
    index = np.empty(width, np.int64)
    vx = np.empty(width)
    vy = np.empty(width)
    scratch = np.empty(max(terms, 1))
    for star in range(first, last):
        if star_weight[star] <= 0.0:
            continue
        row = 2 * (star - first)
        root = 1.0 / np.sqrt(star_weight[star])
        for k in range(edges[star], edges[star + 1]):
            w = weight[k]
            if w <= 0.0:
                continue
            n = _row(
                x[k], y[k], u[k], v[k], unit[k], filt[k], centre, half, order, terms, matrix, reach,
                node_x, node_y, start, scratch, index, vx, vy,
            )  # fmt: skip
            for a in range(n):
                i = index[a]
                wx = w * vx[a]
                wy = w * vy[a]
                gradient[i] += wx * residual_x[k] + wy * residual_y[k]
                block[row, i] += wx * root
                block[row + 1, i] += wy * root
                for b in range(n):
                    j = index[b]
                    if j >= i:
                        normal[i, j] += wx * vx[b] + wy * vy[b]


@kernel
def displacement(x, y, filt, centre, half, order, terms, coefficients, node_x, node_y, table, out_x, out_y):
    """Displacement in raw pixels by polynomials and table at positions.

    Parameters
    ----------
    x, y : ndarray (n,)
        Raw positions.
    filt : ndarray (n,), int64
        Row of `coefficients`.
    centre, half, order, terms, node_x, node_y
        As in `accumulate`.
    coefficients : ndarray (n_filters, terms)
        Pixels.
    table : ndarray (n_filters, 2, n_node_y, n_node_x)
        Pixels.
    out_x, out_y : ndarray (n,)
        Filled.
    """
    scratch = np.empty(max(terms, 1))
    for k in range(x.size):
        dx = 0.0
        dy = 0.0
        if terms > 0:
            c = coefficients[filt[k]]
            s = (x[k] - centre[0]) / half
            t = (y[k] - centre[1]) / half
            dx = c[0] * s + c[1] * t
            dy = -c[0] * t + c[1] * s
            many = _powers(s, t, order, scratch)
            for m in range(many):
                dx += c[2 + m] * scratch[m]
                dy += c[2 + many + m] * scratch[m]
        if node_x.size > 1:
            i, a = _node(x[k], node_x)
            j, b = _node(y[k], node_y)
            for dj in range(2):
                for di in range(2):
                    h = (a if di else 1.0 - a) * (b if dj else 1.0 - b)
                    dx += h * table[filt[k], 0, j + dj, i + di]
                    dy += h * table[filt[k], 1, j + dj, i + di]
        out_x[k] = dx
        out_y[k] = dy


@kernel
def accumulate_gradient(
    unit,
    filt,
    x,
    y,
    u,
    v,
    weight,
    residual_x,
    residual_y,
    centre,
    half,
    order,
    terms,
    matrix,
    reach,
    node_x,
    node_y,
    start,
    gradient,
):
    """The gradient of `accumulate` alone; parameters as there."""
    scratch = np.empty(max(terms, 1))
    size = node_x.size * node_y.size
    for k in range(x.size):
        wx = weight[k] * residual_x[k]
        wy = weight[k] * residual_y[k]
        if wx == 0.0 and wy == 0.0:
            continue
        m = matrix[unit[k]]
        p = (m[0, 0] * u[k] + m[0, 1] * v[k]) / reach
        q = (m[1, 0] * u[k] + m[1, 1] * v[k]) / reach
        gx = m[0, 0] * wx + m[1, 0] * wy
        gy = m[0, 1] * wx + m[1, 1] * wy
        first = 4 * unit[k]
        gradient[first] += wx
        gradient[first + 1] += wy
        gradient[first + 2] += p * wx + q * wy
        gradient[first + 3] += p * wy - q * wx
        if terms > 0:
            s = (x[k] - centre[0]) / half
            t = (y[k] - centre[1]) / half
            first = start[0] + filt[k] * terms
            gradient[first] += gx * s - gy * t
            gradient[first + 1] += gx * t + gy * s
            many = _powers(s, t, order, scratch)
            for i in range(many):
                gradient[first + 2 + i] += gx * scratch[i]
                gradient[first + 2 + many + i] += gy * scratch[i]
        if node_x.size > 1:
            i, a = _node(x[k], node_x)
            j, b = _node(y[k], node_y)
            first = start[1] + 2 * filt[k] * size + j * node_x.size + i
            for dj in range(2):
                for di in range(2):
                    h = (a if di else 1.0 - a) * (b if dj else 1.0 - b)
                    column = first + dj * node_x.size + di
                    gradient[column] += h * gx
                    gradient[column + size] += h * gy


@kernel
def clipped_medians(values, index, clip, rounds, middle, error):
    """Clipped median of the values picked by each row of `index`, and its error.

    Parameters
    ----------
    values : ndarray (n,)
    index : ndarray (m, k), int64
        Which values make each median.
    clip : float
        Sigmas; sigma is half the distance from the 16th to the 84th percentile of what is left.
    rounds : int
        Most rounds of clipping.
    middle, error : ndarray (m,)
        Filled.
    """
    k = index.shape[1]
    held = np.empty(k)
    for row in range(index.shape[0]):
        for i in range(k):
            held[i] = values[index[row, i]]
        held.sort()
        low = 0
        high = k
        centre = 0.0
        sigma = 0.0
        for _ in range(rounds):
            n = high - low
            centre = 0.5 * (held[low + (n - 1) // 2] + held[low + n // 2])
            sigma = 0.5 * (held[low + int(0.841 * (n - 1) + 0.5)] - held[low + int(0.159 * (n - 1) + 0.5)])
            new_low = low
            new_high = high
            while new_low < new_high - 1 and held[new_low] < centre - clip * sigma:
                new_low += 1
            while new_high > new_low + 1 and held[new_high - 1] > centre + clip * sigma:
                new_high -= 1
            if new_low == low and new_high == high:
                break
            low = new_low
            high = new_high
        n = high - low
        middle[row] = 0.5 * (held[low + (n - 1) // 2] + held[low + n // 2])
        error[row] = 1.2533 * sigma / np.sqrt(n)


@kernel
def neighbor_means(values, less, weight, near, out):
    """Weighted means of the values of each row's neighbours, less something known of each row.

    Parameters
    ----------
    values : ndarray (n, 2)
    less : ndarray (n, 2)
        Subtracted from the values.
    weight : ndarray (n,)
    near : ndarray (n, k), integer
        Neighbours of every row; -1 for none.
    out : ndarray (n, 2)
        Filled; 0 where no neighbour has weight.
    """
    for row in range(near.shape[0]):
        total = 0.0
        sum_x = 0.0
        sum_y = 0.0
        for i in range(near.shape[1]):
            k = near[row, i]
            if k < 0:
                continue
            w = weight[k]
            total += w
            sum_x += w * (values[k, 0] - less[k, 0])
            sum_y += w * (values[k, 1] - less[k, 1])
        out[row, 0] = sum_x / total if total > 0.0 else 0.0
        out[row, 1] = sum_y / total if total > 0.0 else 0.0


@kernel
def table_weights(x, y, node_x, node_y):
    """The four nodes about each position and their bilinear weights.

    Parameters
    ----------
    x, y : ndarray (n,)
        Raw positions.
    node_x, node_y : ndarray
        Raw positions of the nodes.

    Returns
    -------
    index : ndarray (n, 4), int64
        Nodes, row by row.
    weight : ndarray (n, 4)
    """
    index = np.empty((x.size, 4), np.int64)
    weight = np.empty((x.size, 4))
    for k in range(x.size):
        i, a = _node(x[k], node_x)
        j, b = _node(y[k], node_y)
        for dj in range(2):
            for di in range(2):
                index[k, 2 * dj + di] = (j + dj) * node_x.size + i + di
                weight[k, 2 * dj + di] = (a if di else 1.0 - a) * (b if dj else 1.0 - b)
    return index, weight
