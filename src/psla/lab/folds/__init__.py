"""ESC-50's official folds: settings chosen by nested cross-validation, models trained and scored fold by fold.

`candidates/` is data. The way through the modules: candidates, selection; cross_validation, fold_report; what both
judge by is in answers. Other ways of holding out are the corpora's (`psla corpus --validation`).
"""
