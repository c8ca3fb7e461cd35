"""``python -m sharedllm``: the command line, for launchers that start modules."""

import sys

from sharedllm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
