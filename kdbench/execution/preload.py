"""Imported by the fork server before all else. To look for garbage while hundreds of thousands of objects are imported
takes a fifth of the time, and there is none; the forked processes collect theirs."""

import gc

gc.disable()
