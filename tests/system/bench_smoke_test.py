#!/usr/bin/python3
"""Every row of bench/compare still yields a figure: a run of seconds over tiny data keeps the
benchmark working. It measures no speed."""

import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

# pylint: disable=wrong-import-position
import surroundings

surroundings.settle()
COMPARE = os.path.join(os.environ["NBDINETD_SRCDIR"], "bench", "compare")
os.execv(sys.executable, [sys.executable, "-B", COMPARE, "--smoke", "--tap", "--as-kernel=6.1"])
