"""``python -m guard`` is the command line."""

import sys

from guard.cli import main

sys.exit(main())
