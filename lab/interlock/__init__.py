"""The interlock of a role that owns instruments: why it is latched, how it makes dark, what trips it."""
