"""`hisa doctor` must run where torch is what is missing."""

import subprocess
import sys


def test_the_command_line_does_not_import_torch():
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['triton'] = None\n"
        "from sglang_hisa.cli import main\n"
        "raise SystemExit(main(['doctor', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert '"torch"' in done.stdout
