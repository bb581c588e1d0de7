import re

LINE = re.compile(r"^(\S+) (\S+) (.*)$")

for line in open("log.txt"):
    time, host, message = LINE.match(line.rstrip("\n")).groups()
    assert re.search(r"\d:\d\d", time) and len(time) < 27, f"no time: {time!r}"
    assert re.fullmatch(r"[a-z0-9.-]+", host), f"no host: {host!r}"
    assert not message.startswith(("| ", "- ")), f"no message: {message!r}"
    print(time, host, message, sep="\t")
