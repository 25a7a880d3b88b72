"""The bones of the usual skeleton layouts, as pairs of joints counted from 0."""

from __future__ import annotations

LAYOUTS: dict[str, tuple[tuple[int, int], ...]] = {
    # Kinect v2, as NTU RGB+D numbers it (Shahroudy et al., CVPR 2016).
    "ntu-25": (
        *((0, 1), (1, 20), (20, 2), (2, 3)),
        *((20, 4), (4, 5), (5, 6), (6, 7), (7, 22), (22, 21)),
        *((20, 8), (8, 9), (9, 10), (10, 11), (11, 24), (24, 23)),
        *((0, 12), (12, 13), (13, 14), (14, 15), (0, 16), (16, 17), (17, 18), (18, 19)),
    ),
    # Kinect v1, as UTD-MHAD numbers it (Chen et al., ICIP 2015).
    "utd-mhad-20": (
        *((0, 1), (1, 2), (2, 3)),
        *((1, 4), (4, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (10, 11)),
        *((3, 12), (12, 13), (13, 14), (14, 15), (3, 16), (16, 17), (17, 18), (18, 19)),
    ),
}
