"""What holds for every test."""

import signal

# A shell that starts the tests in its background has interruptions ignored, by them and by every
# process they start; here some are interrupted on purpose.
signal.signal(signal.SIGINT, signal.default_int_handler)
