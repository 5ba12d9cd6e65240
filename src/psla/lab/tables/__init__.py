"""The paper's tables on any clips: rows as files, the plan and the runs that they come to, results, verdicts, a report.

`rows/`, `claims.yaml` and `paper.yaml` are data. The way through the modules: rows, plan, folder, runner, results;
then measured, verdicts, report.
"""
