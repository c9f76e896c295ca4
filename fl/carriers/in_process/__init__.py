"""Many simulated clients in few processes: federated training of a cohort on one machine."""
