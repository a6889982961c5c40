"""One clear sentence where Tandem's packages cannot be installed. Runs on any Python 3, before anything is installed."""

import platform
import sys

if sys.version_info[:2] != (3, 11):
    sys.exit(
        "Tandem needs Python 3.11 (TensorFlow 2.16, TFDV 1.16 and ScaNN 1.3 meet only there); this is Python %s. "
        "Install python3.11 and run `make PYTHON=python3.11`." % platform.python_version()
    )
if platform.system() != "Linux" or platform.machine() != "x86_64":
    sys.exit(
        "Tandem needs Linux on an x86-64 processor (ScaNN 1.3.2 has no other wheels); this is %s on %s."
        % (platform.system(), platform.machine())
    )
try:
    with open("/proc/cpuinfo") as cpuinfo:
        if " avx2 " not in cpuinfo.read().replace("\n", " "):
            sys.exit("Tandem needs a processor with AVX2 (ScaNN's and TensorFlow's wheels use it); this one has none.")
except OSError:
    pass  # No /proc: the packages' own error will have to do.
