"""Print the total of a line such as `3 x 0.335`."""

import sys
from decimal import Decimal


def total(line):
    quantity, price = line.split(" x ")
    return Decimal(quantity) * Decimal(price)


if __name__ == "__main__":
    print(total(sys.stdin.readline().strip()))
