"""From labelled pictures to a weights file, and what that file is worth. The daemon never imports it.

dataset      a folder a class -> samples, split by a seed
pretrained   VGG16's trunk from a file, or ImageNet's through torchvision
train        the two phases of sec. 3.1
evaluate     pictures through the engine that inspects: accuracy and confusion
"""
