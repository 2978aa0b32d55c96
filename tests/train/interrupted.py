"""Streams that break off, as a run does that is killed."""


class Cut:
    """Gives some steps of a stream, then stops the run."""

    def __init__(self, stream, steps):
        self.stream, self.steps = stream, steps
        self.state_dict = stream.state_dict

    def __iter__(self):
        return self

    def __next__(self):
        if not self.steps:
            raise KeyboardInterrupt
        self.steps -= 1
        return next(self.stream)
