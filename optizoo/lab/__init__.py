"""The lab: training, comparison and pictures on CIFAR-10 (extra `lab`)."""

from optizoo.lab.lr_finder import RangeTest as RangeTest
from optizoo.lab.lr_finder import find_lr as find_lr
