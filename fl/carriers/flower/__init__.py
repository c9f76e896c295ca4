"""Secure aggregation under quantum keys for Flower: a client mod and a strategy (extra ``flower``).

``fl.carriers.flower.mod.qkd_secagg_mod`` goes into ``ClientApp(mods=[...])``, ``fl.carriers.flower.strategy.QkdFedAvg`` takes
the place of ``FedAvg`` in the server app; ``fl/carriers/flower/example`` is an app that uses both.  This package
itself imports nothing, so that qunetlab works without Flower.
"""
