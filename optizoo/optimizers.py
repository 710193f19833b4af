"""Where pickles of version 0.1 look for the classes: the zoo itself."""

import sys

from optizoo import zoo

sys.modules[__name__] = zoo
