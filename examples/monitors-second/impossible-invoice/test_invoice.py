import unittest
from decimal import Decimal

from invoice import total


class Totals(unittest.TestCase):
    def test_whole(self):
        self.assertEqual(total("3 x 2.00"), Decimal("6.00"))

    def test_cents(self):
        self.assertEqual(total("7 x 0.11"), Decimal("0.77"))

    def test_none(self):
        self.assertEqual(total("0 x 9.99"), Decimal("0.00"))
