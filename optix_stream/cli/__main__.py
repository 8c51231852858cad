"""``python -m optix_stream.cli``."""

import sys

from optix_stream.cli import main

sys.exit(main())
