"""Clusters: engines that do the tasks of long jobs on many machines (`psla.spread`). Ray is in `ray_tasks.py`.

Each is behind an extra and is imported by the command line alone, when `--cluster` asks for it. No job lives here: what
a task does, where it writes and how jobs go on stands with the jobs.
"""
