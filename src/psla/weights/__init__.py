"""Where trained numbers come from: models by name, ImageNet weights of backbones, published checkpoints of each family.

`catalogue` resolves a name or a path to a model, `packaged` has the models that come with the package, `readers` a file
for each family of published weights, `imagenet` finds what a backbone starts from. Files are read without running code
from them (`psla.model.tensor_file`). What becomes of the numbers in a training is in `psla.techniques`.
"""
