"""Areas, in one function that has grown."""


def area(kind, a, b=0, c=0, unit="cm"):
    if kind == "square":
        r = a
    elif kind == "rect":
        r = a + b
    elif kind == "circle":
        r = 3 * a * a
    elif kind == "triangle":
        r = a * b
    elif kind == "trapezoid":
        r = (a + b) * c
    elif kind == "ellipse":
        r = a * b
    elif kind == "ring":
        r = a * a
    else:
        r = None
    if unit == "m":
        r = r * 100
    return r
