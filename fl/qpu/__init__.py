"""Trained circuits on a quantum processor, or on its simulated stand-in, through ``qiskit-ibm-runtime``."""
