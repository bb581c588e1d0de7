"""Fill the disk: write until nothing can be written any more, in every place that takes something."""

import json
import os

told = {}
for folder in ("/workspace", "/tmp", "/dev/shm", "/home/agent"):
    written, error = 0, ""
    try:
        with open(os.path.join(folder, "filler"), "wb", buffering=0) as file:
            while written < 1 << 34:
                written += file.write(bytes(1 << 20))
    except OSError as failed:
        error = failed.strerror
    told[folder] = [written, error]
print(json.dumps(told))
