"""`python -m benchmarks`, see `suite`."""

import sys

from benchmarks import suite

if __name__ == "__main__":
    sys.exit(suite.main())
