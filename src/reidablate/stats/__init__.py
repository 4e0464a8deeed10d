"""When is a gain real? Intervals over seeds and identities, families of tests, verdicts, claims, calibration."""
