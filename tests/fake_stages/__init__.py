"""Three tiny stages, chained, that stand in for dpm's own in the tests of the run layer."""
