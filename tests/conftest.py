"""What holds for all tests: how long an example takes depends on what else the machine does, so none has a deadline."""

from hypothesis import settings

settings.register_profile("tandem", deadline=None)
settings.load_profile("tandem")
