"""What the processes that tests start have imported already; imported by the process that they are forks of."""

import pytest  # noqa: F401
import torch._dynamo  # noqa: F401  (torch imports it when the first optimizer is made)

import optizoo.lab.compare  # noqa: F401
