"""Training for a given time, and the learning rate that goes with it."""

import time


class Budget:
    """Processor minutes, so that a busy machine does not shorten the training."""

    def __init__(self, minutes: float) -> None:
        self.seconds, self.start = 60 * minutes, time.process_time()

    @property
    def used(self) -> float:
        """Seconds so far."""
        return time.process_time() - self.start

    @property
    def left(self) -> float:
        """The share still left: 1 at first, 0 or less at the end."""
        return 1 - self.used / self.seconds

    def rate(self, step: int, warm_up: int, decay: float) -> float:
        """Factor on the learning rate: rises for some steps, falls over the last share."""
        return max(0.0, min(1.0, (step + 1) / warm_up, self.left / decay))
