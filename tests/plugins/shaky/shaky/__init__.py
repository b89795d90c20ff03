"""A package that registers tricks, detectors and workloads, good ones and broken ones."""
