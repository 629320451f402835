"""`hisa doctor` must run where torch is what is missing."""

import json
import subprocess
import sys


def test_the_command_line_does_not_import_torch():
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['triton'] = None\n"
        "from sglang_hisa.launch.cli import main\n"
        "raise SystemExit(main(['doctor', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    assert {"torch", "patch table"} <= {finding["check"] for finding in json.loads(done.stdout)["findings"]}
