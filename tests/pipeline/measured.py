"""A call in a process of its own, and what it took there: for inputs that are small and become gigabytes."""

import json
import subprocess
import sys
from pathlib import Path


def call_measured(module: str, function: str, error: str, path: Path) -> tuple[str, float, int]:
    """Call `module.function(path)`, which may raise `error`, a name in that module, and nothing else.

    Returns:
        error: its message; "" if it did not raise.
        seconds: of processor time.
        peak_mib: the most memory that was resident at once, imports included.
    """
    code = (
        f"import json, re, sys, time; from pathlib import Path; from {module} import {function}, {error}\n"
        "started = time.process_time()\n"
        f"try: {function}(Path(sys.argv[1])); error = ''\n"
        f"except {error} as caught: error = str(caught)\n"
        "seconds = time.process_time() - started\n"
        "peak_kib = int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "print(json.dumps([error, seconds, peak_kib // 1024]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    message, seconds, peak_mib = json.loads(done.stdout)
    return message, seconds, peak_mib
