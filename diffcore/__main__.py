"""``python -m diffcore``, the same as ``diffcore``."""

import sys

from diffcore.cli import main

sys.exit(main())
