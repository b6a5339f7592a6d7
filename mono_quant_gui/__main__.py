"""``python -m mono_quant_gui`` opens the workbench."""

import sys

from mono_quant_gui.app import main

sys.exit(main())
