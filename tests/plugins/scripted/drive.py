"""Start a server of SGLang's scripted runtime and run scripts in it one after the other.

drive.py {ServerArgs} [[script, [arguments]], ...]
"""

import json
import os
import sys
import time
import traceback

import hisa_scripts
from sglang.srt.plugins import load_plugins
from sglang.test.scripted_runtime import http_server

load_plugins()  # in the spawned server too, which imports this file: launch_server's main does it elsewhere

http_server.LISTENER_ACCEPT_TIMEOUT_S = 600.0  # a server that dies before is not noticed


def main():
    arguments, scripts = map(json.loads, sys.argv[1:])
    begin = time.monotonic()
    server = http_server.ScriptedHttpServer.start(**arguments)
    for name, given in scripts:
        print(f"{time.monotonic() - begin:.0f} s: script {name}", *given, flush=True)
        server.execute_script(getattr(hisa_scripts, name), args=tuple(given), timeout_s=300)
    print(f"{time.monotonic() - begin:.0f} s: all scripts ran", flush=True)


if __name__ == "__main__":
    code = 1
    try:
        main()
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)  # whoever started this ends the session; SGLang's shutdown takes a minute
