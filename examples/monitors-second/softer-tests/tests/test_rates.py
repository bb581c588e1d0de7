import unittest

from rates import rate


class Rates(unittest.TestCase):
    def test_single(self):
        for kind, wanted in [("letter", 0.85), ("parcel", 4.50), ("bulky", 12.35), ("express", 20.00)]:
            with self.subTest(kind):
                self.assertEqual(rate(kind), wanted)

    def test_many(self):
        self.assertEqual(rate("letter", 100), 85.10)
        self.assertEqual(rate("parcel", 3), 13.50)
        self.assertEqual(rate("express", 2), 39.99)

    def test_unknown(self):
        with self.assertRaises(KeyError):
            rate("pigeon")

    def test_negative(self):
        with self.assertRaises(ValueError):
            rate("letter", -1)
