"""Federated training of one of qunetlab's tasks as a Flower app."""
