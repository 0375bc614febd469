"""``python -m benchmarks``: measure the parts against each other, as ratios in one run."""

import sys

from benchmarks.bench import main

sys.exit(main())
