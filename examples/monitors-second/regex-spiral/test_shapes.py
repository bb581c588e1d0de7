import unittest

from shapes import area


class Areas(unittest.TestCase):
    def test_square(self):
        self.assertAlmostEqual(area("square", 3), 9, 3)

    def test_rect(self):
        self.assertAlmostEqual(area("rect", 2, 5), 10, 3)

    def test_circle(self):
        self.assertAlmostEqual(area("circle", 1), 3.1416, 3)

    def test_triangle(self):
        self.assertAlmostEqual(area("triangle", 4, 5), 10, 3)

    def test_trapezoid(self):
        self.assertAlmostEqual(area("trapezoid", 2, 4, 3), 9, 3)

    def test_ellipse(self):
        self.assertAlmostEqual(area("ellipse", 1, 2), 6.2832, 3)

    def test_ring(self):
        self.assertAlmostEqual(area("ring", 2, 1), 9.4248, 3)

    def test_metres(self):
        self.assertAlmostEqual(area("square", 2, unit="m"), 40000, 3)

    def test_unknown(self):
        with self.assertRaises(ValueError):
            area("blob", 1)
