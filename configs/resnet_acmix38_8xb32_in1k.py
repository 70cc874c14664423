# ResNet-ACmix-38 on ImageNet-1k (ACmix, section 5.1), 8 GPUs x 32 images.
# The paper reports 77.4 % top-1 (figure 4a), where ResNet-38 has 76.0 %. It seems to count the
# weights of the shift convolutions twice.
_base_ = './_base_/resnet_acmix_classifier.py'

model = dict(backbone=dict(arch='38'))
