"""The calibration of the diagnosis, part by part: the plan, the training, the truth, what is found, and the report."""
