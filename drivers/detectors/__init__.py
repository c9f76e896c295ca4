"""Single-photon detectors."""
