"""QCoDeS data sets of what an owner's instruments did: calibrations, and values that change slowly.

Databases are SQLite files of QCoDeS' own layout, one per owner, so that ``qcodes.load_by_id``, ``plot_dataset`` and an
operator's other tools open them.  What a user found stays in that user's database.
"""
