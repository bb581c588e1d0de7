"""`python -m gearcase.cli`: the `gearcase` command of this interpreter."""

import sys

from gearcase.cli import main

sys.exit(main())
