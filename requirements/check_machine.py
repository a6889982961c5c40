"""One clear sentence where Tandem's packages cannot be installed. Runs on any Python 3, before any install."""

import platform
import sys

if sys.version_info[:2] != (3, 11):
    sys.exit(
        "Tandem needs Python 3.11: TensorFlow 2.16, TFDV 1.16 and ScaNN 1.3 meet only there. "
        f"This is Python {platform.python_version()}. Install python3.11 and run `make demo PYTHON=python3.11`."
    )
if platform.system() != "Linux" or platform.machine() != "x86_64":
    sys.exit(
        "Tandem needs Linux on an x86-64 processor: ScaNN 1.3.2 has no other wheels. "
        f"This is {platform.system()} on {platform.machine()}."
    )
with open("/proc/cpuinfo") as cpuinfo:
    if " avx2 " not in cpuinfo.read():
        sys.exit("Tandem needs a processor with AVX2, which ScaNN's and TensorFlow's wheels use; this one has none.")
