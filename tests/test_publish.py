"""The order of rows within a shard."""

from __future__ import annotations

import numpy as np

from pipeline.publish import hilbert


def test_neighbours_on_the_curve_are_neighbours_on_the_map() -> None:
    side = 64
    lon = (np.arange(side) + 0.5) / side * 360 - 180
    lat = (np.arange(side) + 0.5) / side * 180 - 90
    places = np.stack(np.meshgrid(lon, lat), axis=-1).reshape(-1, 2)
    positions = hilbert(places)
    assert len(set(positions.tolist())) == side * side
    cells = (places + np.array([180, 90])) / np.array([360 / side, 180 / side])
    steps = np.abs(np.diff(cells[np.argsort(positions)], axis=0)).sum(axis=1)
    assert (steps.round(6) == 1).all()  # the definition of the curve, cell by cell


def test_places_without_coordinates_come_first() -> None:
    positions = hilbert(np.array([[0.0, 0.0], [np.nan, np.nan], [180.0, 90.0], [-180.0, -90.0]]))
    assert positions[1] == -1
    assert (positions[[0, 2, 3]] >= 0).all()
    assert hilbert(np.empty((0, 2))).shape == (0,)
