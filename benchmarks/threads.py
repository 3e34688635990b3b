"""Workers that are threads of this process: for what only sleeps, and for tests that replace what a worker does."""

from concurrent.futures import Future, ThreadPoolExecutor


class Threads(ThreadPoolExecutor):
    """See ``sdd_utils.runner.workers.Executor``."""

    def slots(self) -> int:
        """The number of threads."""
        return self._max_workers

    def submit(self, function, /, *args) -> Future:
        """To the next free thread."""
        return super().submit(function, *args)

    def ask_to_stop(self) -> None:
        """Nothing: whoever asks the sweep asks this process, and so its threads."""

    def stop(self) -> None:
        """Wait for the threads."""
        self.shutdown()
