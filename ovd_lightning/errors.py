"""The one exception a user is meant to read."""


class ConfigError(ValueError):
    """A setting is wrong. Names the setting and the mend; raised before any model is loaded."""

    def __init__(self, setting: str, problem: str, mend: str):
        self.setting, self.problem, self.mend = setting, problem, mend
        super().__init__(f"{setting}: {problem} {mend}")


class RunError(RuntimeError):
    """The run cannot go on, for a reason outside the program: a service that is gone, a full disk, a loss that is no
    number. The message alone is shown."""
