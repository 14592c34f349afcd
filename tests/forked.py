"""Work in a forked child, which may be killed."""

import os
import traceback

import torch


def fork(work):
    """Run `work` in a forked child, everything being imported; return its process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def finish(pid):
    return os.waitpid(pid, 0)[1]
