"""Work in a forked child, which may be killed, and an engine's jobs in such children."""

import os
import signal
import sys
import time
import traceback

import torch

from reverie.experiments import cli


def fork(work):
    """Run `work` in a forked child, everything being imported; return its process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            work()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def finish(pid):
    return os.waitpid(pid, 0)[1]


class Forked:
    """What LocalEngine takes for a Popen of `python -m reverie ...`, without seconds of imports."""

    def __init__(self, command, env, start_new_session, stdout=None, stderr=None):
        assert command[:3] == [sys.executable, "-m", "reverie"] and start_new_session

        def work():
            os.setsid()
            for number, file in ((1, stdout), (2, stderr)):
                if file is not None:
                    os.dup2(file.fileno(), number)
            os.environ.clear()
            os.environ.update(env)
            with open(1, "w", closefd=False) as out, open(2, "w", closefd=False) as err:
                sys.stdout, sys.stderr = out, err
                sys.exit(cli.main(command[3:]))

        self.returncode, self.pid = None, fork(work)

    def poll(self):
        pid, status = os.waitpid(self.pid, os.WNOHANG) if self.returncode is None else (0, 0)
        self.returncode = os.waitstatus_to_exitcode(status) if pid else self.returncode
        return self.returncode

    def wait(self, timeout=None):
        while self.poll() is None:
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)
