"""The lab: training, comparison and pictures on CIFAR-10 (extra `lab`)."""
