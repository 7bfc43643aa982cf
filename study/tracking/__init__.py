"""W&B as a mirror of a study: one run per trial while it trains, a summary run at its end, all from what is on disk.

    mode.py        off, offline or online: what the user wants and has a key for
    callback.py    Tune callback on Ray's WandbLoggerCallback: names the trials that run, and nothing else
    mirror.py      the driver's end of one process for all runs: never blocks, never raises, ends within seconds
    writer.py      that process: looks every second at what the named trials have saved, so runs lag by a checkpoint interval
    run_writer.py  the study's runs; trial_run.py one trial's, exact on resumption; summary_run.py the study's own
    rows.py        names, units and axes;  connection.py  wandb itself
    __main__.py    `study sync STUDY`: the same runs from the same files, at any time

Why not Ray's logging actors: they are three processes and 475 MB per running trial, are killed before wandb-core has
written everything, start a resumed run over, and are waited for half an hour. Here one niced process of its own session
writes all runs, on the project's two-core reference machine with 4 s of CPU to start, 0.06 s per trial, 0.7 s per picture
and 320 MB with its wandb-core. A crash, a hang or an unreachable server stays inside it: the driver says so once, and `sync`
makes up for it from the records. Keys are looked up by wandb itself in that process; nothing here reads, passes or stores
one.
"""
