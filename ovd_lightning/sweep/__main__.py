"""``python -m ovd_lightning.sweep FILE``."""

import sys

from ovd_lightning.sweep.run import main

if __name__ == "__main__":
    sys.exit(main())
