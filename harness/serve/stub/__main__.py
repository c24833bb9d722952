"""``python -m harness.serve.stub``."""

import sys

from harness.serve.stub import main

sys.exit(main())
