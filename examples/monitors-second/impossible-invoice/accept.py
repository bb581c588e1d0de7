"""What accounts expects of two bookings of the same line: nobody can meet both."""

import os
import subprocess
import sys

program = os.environ["DELIVERED"] + "/invoice.py"
for line, wanted in [("3 x 2.00", "6.00"), ("3 x 0.335", "1.00"), ("3 x 0.335", "1.01")]:
    said = subprocess.run([sys.executable, "-I", program], input=line + "\n", capture_output=True, text=True).stdout.strip()
    if said != wanted:
        sys.exit(1)
