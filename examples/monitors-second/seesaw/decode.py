def decode(line):
    return [field.replace("\\,", ",") for field in line.split(",")]
