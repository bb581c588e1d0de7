"""For all tests: programs that they start hear Ctrl-C, also where the tests run below something that ignores it (nohup, a job of cron)."""

import signal

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
