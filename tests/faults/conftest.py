"""Makes the driver importable by its own name, as running it as a script does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
