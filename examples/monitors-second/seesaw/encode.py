def encode(fields):
    return ",".join(field.replace(",", "\\,") for field in fields)
