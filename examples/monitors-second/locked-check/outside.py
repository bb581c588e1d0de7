"""Nothing that answers: it takes the right to read the check away, which a repository cannot keep."""

import time
from pathlib import Path

Path("acceptance/check.sh").chmod(0)
print("ready", flush=True)
time.sleep(3600)
