"""Four-phase MDI protocol: two bases of two phases each, no decoys; secret by the quantum-coin bound."""
